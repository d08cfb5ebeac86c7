//! Listeners, route table, activation, concurrency gate, balancing, proxying.
