//! What a plugin prints: clean and bounded text, fit for a report, and no verdict but its exit code's.

use evenkeel::checks::verdict;
use evenkeel::command::{Apart, clean};
use evenkeel::model::{CheckResult, CheckStatus};

/// The most that a report carries of either text, in bytes.
const TEXT_BYTES_MAX: usize = 1024;

/// The exit code in the first line; then standard output; after a zero byte, standard error.
pub fn output(data: &[u8]) -> bool {
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (code, rest) = data.split_at(at);
    let code = String::from_utf8_lossy(code).trim().parse().unwrap_or(0);
    let rest = rest.get(1..).unwrap_or_default();
    let mut parts = rest.splitn(2, |byte| *byte == 0);
    let stdout = parts.next().unwrap_or_default().to_vec();
    let stderr = clean(parts.next().unwrap_or_default());
    let result = verdict(code, &Apart { stdout, stderr }, 7);
    let status = match code {
        0 => CheckStatus::Ok,
        1 => CheckStatus::Warning,
        2 => CheckStatus::Critical,
        _ => CheckStatus::Unknown,
    };
    assert_eq!((result.status, result.took_ms), (status, 7));
    fit_for_a_report(&result);
    if (0..=3).contains(&code) && !result.text.contains('|') {
        again(code, &result);
    }
    !result.performance.is_empty()
}

fn fit_for_a_report(result: &CheckResult) {
    assert!(!result.text.is_empty(), "it says nothing");
    for text in [&result.text, &result.performance] {
        assert!(text.len() <= TEXT_BYTES_MAX, "{} bytes", text.len());
        assert!(!text.chars().any(|c| c.is_control() && c != '\t'), "{text:?}");
    }
    let json = serde_json::to_vec(result).expect("JSON");
    assert_eq!(serde_json::from_slice::<CheckResult>(&json).expect("a result"), *result);
}

/// Printed as a plugin would, the same is read; but for a blank at the end of what was cut.
fn again(code: i32, result: &CheckResult) {
    let stdout = format!("{}|{}\n", result.text, result.performance).into_bytes();
    let read = verdict(code, &Apart { stdout, stderr: result.text.clone() }, 7);
    assert_eq!((read.status, read.text), (result.status, result.text.trim_end().to_owned()));
    assert_eq!(read.performance, result.performance.trim_end());
}
