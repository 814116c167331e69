//! Partitions whose logs cannot be opened for a while: R33.

use corelog_net::error_code::ErrorCode;
use corelog_runtime::blocking;

use crate::common::*;

#[test]
fn r33_a_log_that_could_not_be_opened_is_tried_again_until_it_can() {
    let dir = DataDir::new("r33-offline");
    let broker = dir.start(2);
    let mut client = broker.connect();
    client.create_topic("t", 2, &[]);
    for partition in 0..2 {
        client.produce("t", partition, text_batch(&["kept"]));
    }
    broker.stop();
    let path = |name: &str| dir.logs().join(name);
    // A file stands where the partition's directory should be.
    blocking::rename(path("t-1"), path("aside")).unwrap();
    blocking::write_file(path("t-1"), "in the way").unwrap();
    let broker = dir.start(2);
    let mut client = broker.connect();
    let offline = || broker.metric("corelog_partitions_offline", &[]);
    assert_eq!(offline(), 1);
    let refused = client.produce_error("t", 1, text_batch(&["not now"]));
    assert_eq!(refused, ErrorCode::NotLeaderOrFollower);
    assert_eq!(client.produce("t", 0, text_batch(&["others work"])), 1);
    // Nothing stands there: no empty log takes the place of the one that had records.
    assert!(broker.log().contains("the directory is gone"));
    blocking::remove_file(path("t-1")).unwrap();
    assert_eq!(offline(), 1);
    blocking::rename(path("aside"), path("t-1")).unwrap();
    poll("the partition to be online", || {
        (offline() == 0).then_some(())
    });
    assert_eq!(client.produce("t", 1, text_batch(&["again"])), 1);
    assert_eq!(texts(&client.read_all("t", 1)), ["kept", "again"]);
    let log = broker.stop();
    let told = log.matches("the log could not be opened").count();
    assert_eq!(told, 1, "once per reason: {log}");
    assert!(log.contains("stopped cleanly"), "{log}");
    let broker = dir.start(2);
    let rows = broker.connect().read_all("t", 1);
    assert_eq!(texts(&rows), ["kept", "again"]);
}
