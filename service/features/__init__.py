"""What is known of users and ads beforehand: stores, their addresses, the ad catalogue."""
