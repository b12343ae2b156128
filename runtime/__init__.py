"""What the processes of trainer and scorer run on: processor, allocator, TensorFlow's options."""
