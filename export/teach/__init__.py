"""Knowledge distillation: any bundle or trained model says of each row what a student is to learn."""
