//! Where the offsets of a group are kept.

use corelog_core::group::partition_of;

#[test]
fn r23_a_groups_partition_is_the_hash_of_java_strings() {
    // Made with `Math.abs(String.hashCode()) % n` of a JVM; the fifth has the one hash without
    // an absolute value.
    let vectors = [
        ("", 0, 0),
        ("a", 47, 6),
        ("my-group", 12, 1),
        ("console-consumer-12345", 6, 6),
        ("polygenelubricants", 0, 0),
        ("grüppe", 12, 3),
        ("組", 18, 1),
        ("😀-g", 37, 4),
        ("test-group-1", 36, 6),
        ("connect-cluster", 13, 5),
        (
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            46,
            6,
        ),
    ];
    for (group, of_fifty, of_seven) in vectors {
        assert_eq!(partition_of(group, 50), of_fifty, "{group}");
        assert_eq!(partition_of(group, 7), of_seven, "{group}");
    }
}
