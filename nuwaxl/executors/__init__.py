"""Where segments run: in this process, on replicas in several threads, or on several machines."""
