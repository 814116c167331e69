//! CPU lists and pinning.

use corelog_runtime::cpus::{CpuListError, allowed, parse_cpu_list, pin};
use corelog_runtime::shards::specs;
use corelog_runtime::{ShardId, blocking};
use proptest::prelude::*;

#[test]
fn lists_are_read_and_cut_to_what_is_allowed() {
    let allowed = [0, 1, 2, 3, 8, 9];
    assert_eq!(parse_cpu_list("all", &allowed).expect("all"), allowed);
    assert_eq!(parse_cpu_list("0", &allowed).expect("one"), [0]);
    assert_eq!(
        parse_cpu_list(" 8, 0-2 ,1", &allowed).expect("mixed"),
        [0, 1, 2, 8]
    );
    assert_eq!(
        parse_cpu_list("2-100", &allowed).expect("cut"),
        [2, 3, 8, 9]
    );
    assert_eq!(
        parse_cpu_list("4-7", &allowed),
        Err(CpuListError::NoneAllowed("4-7".into()))
    );
    for wrong in ["", "a", "1,", "3-1", "-1", "1-2-3", "0x1"] {
        assert!(
            matches!(
                parse_cpu_list(wrong, &allowed),
                Err(CpuListError::Syntax(_))
            ),
            "{wrong}"
        );
    }
    parse_cpu_list("0-18446744073709551615", &allowed).expect("no list is made of the range");
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in ".{0,40}") {
        let _any = parse_cpu_list(&text, &[0, 1]);
    }
}

#[test]
fn a_thread_is_pinned_to_an_allowed_cpu_and_no_other() {
    let cpus = allowed();
    assert!(!cpus.is_empty());
    let last = *cpus.last().expect("one at least");
    let thread = blocking::spawn("pinned", move || {
        assert!(pin(last));
        assert!(!pin(100_000));
        affinity::get_thread_affinity().expect("affinity")
    });
    assert_eq!(thread.expect("a thread").join().expect("no panic"), [last]);
    assert_eq!(allowed(), cpus, "asked once");
}

#[test]
fn more_shards_than_cpus_are_pinned_round_robin() {
    let specs = specs(&[3, 5], Some(4), 0);
    let pinned: Vec<_> = specs.iter().map(|spec| (spec.shard, spec.cpu)).collect();
    let expected = [(0, 3), (1, 5), (2, 3), (3, 5)].map(|(id, cpu)| (ShardId(id), Some(cpu)));
    assert_eq!(pinned, expected);
    assert_eq!(specs_default(), 2);
}

fn specs_default() -> usize {
    specs(&[3, 5], None, 0).len()
}
