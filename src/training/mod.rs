//! Data order, optimiser, schedule, loop, checkpoints, TensorBoard.
