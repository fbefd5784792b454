"""What two or more services use today; it never imports a service."""
