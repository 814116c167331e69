//! TCP settings of the kernel.

use super::{Check, bytes, number, read};

/// Largest socket buffer a busy long-distance connection needs.
const BUFFER_WANTED: u64 = 4 << 20;
/// Connections that may wait to be accepted.
const SOMAXCONN_WANTED: u32 = 1024;

pub(super) fn checks(listen_backlog: u32) -> Vec<Check> {
    let mut checks = Vec::new();
    checks.extend(read("/proc/sys/net/ipv4/tcp_congestion_control").map(|c| congestion(&c)));
    for (name, path) in [
        ("tcp_rmem", "/proc/sys/net/ipv4/tcp_rmem"),
        ("tcp_wmem", "/proc/sys/net/ipv4/tcp_wmem"),
    ] {
        checks.extend(read(path).and_then(|text| buffers(name, &text)));
    }
    let somaxconn = number("/proc/sys/net/core/somaxconn");
    checks.extend(somaxconn.map(|max| accept_queue(max, listen_backlog)));
    checks
}

fn congestion(found: &str) -> Check {
    let name = "tcp congestion control";
    match found {
        "cubic" | "bbr" | "dctcp" => Check::ok(name, found),
        other => Check::warn(
            name,
            other,
            "`sysctl -w net.ipv4.tcp_congestion_control=cubic` (or bbr between distant sites)",
        ),
    }
}

/// The kernel's three numbers: least, first, most.
fn buffers(name: &str, text: &str) -> Option<Check> {
    let most: u64 = text.split_whitespace().nth(2)?.parse().ok()?;
    let found = format!("at most {}", bytes(most));
    Some(if most < BUFFER_WANTED {
        let advice = format!(
            "`sysctl -w net.ipv4.{name}=\"4096 131072 {BUFFER_WANTED}\"`: smaller ones bound what \
             one connection carries over a long way"
        );
        Check::warn(name, found, advice)
    } else {
        Check::ok(name, found)
    })
}

fn accept_queue(somaxconn: u32, backlog: u32) -> Check {
    let found = format!("somaxconn {somaxconn}, socket.listen.backlog.size {backlog}");
    let name = "accept queue";
    if somaxconn < backlog {
        let advice =
            format!("`sysctl -w net.core.somaxconn={backlog}`: it cuts the broker's queue");
        Check::warn(name, found, advice)
    } else if somaxconn < SOMAXCONN_WANTED {
        let advice = format!(
            "`sysctl -w net.core.somaxconn={SOMAXCONN_WANTED}`, for when many clients connect at once"
        );
        Check::warn(name, found, advice)
    } else {
        Check::ok(name, found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn settings_of_tcp_are_judged() {
        assert_eq!(congestion("cubic").verdict, Verdict::Ok);
        assert_eq!(congestion("reno").verdict, Verdict::Warn);
        let verdict = |text| buffers("tcp_rmem", text).map(|check| check.verdict);
        assert_eq!(verdict("4096\t131072\t6291456"), Some(Verdict::Ok));
        assert_eq!(verdict("4096 87380 1000000"), Some(Verdict::Warn));
        assert_eq!(verdict("nothing"), None);
        assert_eq!(accept_queue(4096, 50).verdict, Verdict::Ok);
        assert_eq!(accept_queue(128, 50).verdict, Verdict::Warn);
        assert_eq!(accept_queue(4096, 8192).verdict, Verdict::Warn);
    }
}
