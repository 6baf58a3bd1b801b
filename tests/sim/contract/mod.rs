//! The simulated parts beside the real ones: the same stories, told by both, must be the same to the word. So the
//! simulator is no kinder than the world.

mod broker;
mod disk;
mod haproxy;
mod plugin;
mod raw;
