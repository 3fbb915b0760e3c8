//! Bare-metal guests that run on both engines, and come to the same.

#[path = "../../../viv-soft/tests/baremetal/machine/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the software engine's tests, which use all of it")]
mod machine;

mod both;
mod debugger;
mod host;
mod moving;
mod processors;
mod same;
mod speed;
