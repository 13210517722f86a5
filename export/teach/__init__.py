"""Knowledge distillation: any bundle or trained model says of each row of a log what a student is to learn."""
