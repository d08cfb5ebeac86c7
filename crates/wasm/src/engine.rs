//! How the engine is set up.

use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::config::MEMORY_BYTES_MAX;
use crate::error::{Error, Result, cause};

/// Memory of a slot that stays resident for the next instance: resetting it is cheaper than new page faults.
const KEEP_RESIDENT: usize = 1 << 20;
const TABLE_KEEP_RESIDENT: usize = 64 << 10;
/// Slots that stay warm although nobody uses them.
const WARM_SLOTS: u32 = 64;
/// Elements of one table; the largest language runtimes have some ten thousand functions.
const TABLE_ELEMENTS: usize = 40_000;
/// Parts of one component: interpreters come as dozens of core modules around one memory.
const CORE_INSTANCES_PER_COMPONENT: u32 = 64;
const MEMORIES_PER_COMPONENT: u32 = 16;
const TABLES_PER_COMPONENT: u32 = 64;
const INSTANCE_BYTES: usize = 2 << 20;

/// The engine, with a pool of slots for `instances` where the address space allows it.
pub(crate) fn new(instances: u32) -> Result<Engine> {
    let pooled =
        Engine::new(config().allocation_strategy(InstanceAllocationStrategy::Pooling(pool(instances))));
    pooled.or_else(|error| {
        // A container with a limited address space: slower, but the same in every other way.
        tracing::warn!(%error, "no pool of WebAssembly instances; each gets its memory when it starts");
        Engine::new(config().allocation_strategy(InstanceAllocationStrategy::OnDemand))
            .map_err(|e| Error::Engine(cause(e)))
    })
}

fn config() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .epoch_interruption(true)
        // Stack traces of WebAssembly use frame pointers; the tables for native unwinders are dead weight.
        .native_unwind_info(false)
        .memory_init_cow(true)
        .parallel_compilation(true);
    config
}

fn pool(instances: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    // Most components have one memory and a handful of core instances; those with more use up the pool sooner.
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(4))
        .total_memories(instances.saturating_mul(2))
        .total_tables(instances.saturating_mul(4))
        .total_stacks(instances)
        .max_memory_size(usize::try_from(MEMORY_BYTES_MAX).unwrap_or(usize::MAX))
        .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT)
        .max_memories_per_component(MEMORIES_PER_COMPONENT)
        .max_tables_per_component(TABLES_PER_COMPONENT)
        .max_core_instance_size(INSTANCE_BYTES)
        .max_component_instance_size(INSTANCE_BYTES)
        .table_elements(TABLE_ELEMENTS)
        .max_unused_warm_slots(WARM_SLOTS)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(TABLE_KEEP_RESIDENT)
        .pagemap_scan(Enabled::Auto);
    pool
}
