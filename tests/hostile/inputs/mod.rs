//! Every kind of input from outside that is parsed, and what must hold whatever it is.
//!
//! Each body takes any bytes at all, and panics where evenkeel breaks its word. The fuzz targets under `fuzz/` and the
//! tests beside this module call the same ones.

mod bus;
mod cores;
mod desired;
mod fleet;
mod haproxy;
mod nrpe;
mod plugin;
#[path = "../../sim/presence.rs"]
#[allow(dead_code)] // the simulator uses the rest
mod presence;
mod release;
#[path = "../../planner/written.rs"]
mod written;

/// The longest input that is tried, in bytes: room for any shape, and none for waste. Sizes are bounded elsewhere.
pub const BYTES_MAX: usize = 16 * 1024;

/// A kind of input.
pub struct Input {
    /// As the fuzz target, and the folders of its seeds and found cases.
    pub name: &'static str,
    /// Says whether anything of it was taken; panics where a promise is broken.
    pub hand_in: fn(&[u8]) -> bool,
}

/// A report of an agent.
pub const REPORT: Input = Input { name: "report", hand_in: bus::report };
/// An assignment of a controller.
pub const ASSIGNMENT: Input = Input { name: "assignment", hand_in: bus::assignment };
/// Any document on the bus, on any topic.
pub const DOCUMENT: Input = Input { name: "document", hand_in: bus::document };
/// Files of a desired directory.
pub const DESIRED: Input = Input { name: "desired", hand_in: desired::files };
/// What HAProxy answers.
pub const HAPROXY: Input = Input { name: "haproxy", hand_in: haproxy::answers };
/// NRPE's configuration.
pub const NRPE: Input = Input { name: "nrpe", hand_in: nrpe::files };
/// How a plugin ends, and what it prints.
pub const PLUGIN: Input = Input { name: "plugin", hand_in: plugin::output };
/// A release's archive.
pub const RELEASE: Input = Input { name: "release", hand_in: release::archive };

/// The parts of `data` that stand below lines `#: FOLDER/FILE`, which are comments in each format that has them.
/// What comes before the first such line is no part.
fn files_in(data: &[u8]) -> Vec<(String, &[u8])> {
    const MARK: &[u8] = b"#: ";
    let mut files: Vec<(String, &[u8])> = Vec::new();
    let mut rest = data;
    let mut begun: Option<(String, usize)> = None;
    let mut at = 0;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
        let (line, after) = rest.split_at(end);
        if let Some(name) = line.strip_prefix(MARK) {
            if let Some((name, from)) = begun.take() {
                files.push((name, &data[from..at]));
            }
            begun = Some((String::from_utf8_lossy(name).trim().to_owned(), at + end));
        }
        at += end;
        rest = after;
    }
    if let Some((name, from)) = begun {
        files.push((name, &data[from..]));
    }
    files
}
