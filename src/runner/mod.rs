//! A plan → artifacts: scheduler, worker processes, events, displays.
