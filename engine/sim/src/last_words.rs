//! A broker that panics or aborts breaks a rule too: its seed is said, and the exit code is 1.

use std::sync::OnceLock;

use corelog_sim::many;

static TERMS: OnceLock<(u64, Option<String>)> = OnceLock::new();

/// Sets the hooks.
pub fn install(steps: u64, planted: Option<String>) {
    TERMS.get_or_init(|| (steps, planted));
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        hook(info);
        say("a panic");
        std::process::exit(1);
    }));
    // SAFETY: the handler is a function of the right type that lives as long as the process.
    unsafe { libc::signal(libc::SIGABRT, aborted as *const () as libc::sighandler_t) };
}

fn say(what: &str) {
    let (steps, planted) = TERMS.get().cloned().unwrap_or_default();
    match many::under_way() {
        Some(seed) => {
            let again = many::command(seed, steps, planted.as_deref());
            println!("VIOLATION seed={seed}: {what}\n  {again}");
        }
        None => println!("VIOLATION: {what} outside of any seed"),
    }
}

/// Called on the thread that aborts, which holds no lock that is needed here: `abort` is called by
/// the broker's code, not by the allocator or the output.
extern "C" fn aborted(_: libc::c_int) {
    say("the broker aborted: an invariant of its own does not hold");
    std::process::exit(1);
}
