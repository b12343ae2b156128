"""What the trainer's and the scorer's processes run on: the processor, the allocator and TensorFlow's switches."""
