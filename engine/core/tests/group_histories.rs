//! Random histories of groups: members that join, consume, commit, fall silent and come back,
//! over a disk that waits and fails and a coordinator that is loaded anew in the middle.

mod group_common;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use corelog_core::group::{Event, GroupSettings, Response, WriteError, WriteRecord};
use corelog_record::schemas::consumer_offsets::{Key, OffsetCommitValue, decode_key};
use group_common::*;

const HISTORIES: u64 = 10_000;
const GROUPS: [&str; 2] = ["a", "b"];
const PARTITIONS: u8 = 6;
const MEMBERS: usize = 6;

/// Chance from a seed.
struct XorShift(u64);

impl XorShift {
    fn new(seed: u64) -> XorShift {
        XorShift((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

/// What a simulated consumer believes.
#[derive(Debug, Clone, PartialEq)]
enum Phase {
    Out,
    Joining(u64),
    /// It has a generation; the members, if it leads.
    Joined(i32, Option<Vec<String>>),
    Syncing(i32, u64),
    Consuming(i32, Vec<u8>),
}

#[derive(Debug)]
struct Member {
    group: &'static str,
    id: String,
    instance: Option<String>,
    version: i16,
    phase: Phase,
}

impl Member {
    /// Who owns partitions: a static member keeps them under another id.
    fn owner(&self) -> String {
        self.instance.clone().unwrap_or_else(|| self.id.clone())
    }

    fn token(&self) -> Option<u64> {
        match self.phase {
            Phase::Joining(token) | Phase::Syncing(_, token) => Some(token),
            _ => None,
        }
    }
}

type Offsets = BTreeMap<(String, String, i32), i64>;

struct World {
    seed: u64,
    d: Driver,
    rng: XorShift,
    members: Vec<Member>,
    /// Tokens nobody waits for: cancelled, or asked of a coordinator that is gone.
    unwanted: BTreeSet<u64>,
    /// Which write a commit waits for.
    commits: BTreeMap<u64, u64>,
    /// How writes ended.
    ended: BTreeMap<u64, bool>,
    /// What the disk says is committed.
    model: Offsets,
    /// Owner of each partition, by group, life of the group, and generation.
    owners: BTreeMap<(&'static str, u32, i32), BTreeMap<u8, String>>,
    lives: BTreeMap<&'static str, u32>,
    /// Groups whose last record did not reach the disk.
    behind: BTreeSet<String>,
    stats: BTreeMap<&'static str, u64>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = XorShift::new(seed);
        let settings = GroupSettings {
            initial_rebalance_delay_ms: [0, 100, 3000][rng.below(3) as usize],
            max_size: [3, 100][rng.below(2) as usize],
            offsets_retention_ms: [20_000, 3_600_000][rng.below(2) as usize],
            offsets_retention_check_interval_ms: 15_000,
            ..GroupSettings::default()
        };
        let mut d = Driver::new(settings);
        d.auto = false;
        let mut members = Vec::new();
        for number in 0..MEMBERS {
            members.push(Member {
                group: GROUPS[rng.below(2) as usize],
                id: String::new(),
                instance: rng.one_in(3).then(|| format!("instance{number}")),
                version: [3, 5, 9][rng.below(3) as usize],
                phase: Phase::Out,
            });
        }
        World {
            seed,
            d,
            rng,
            members,
            unwanted: BTreeSet::new(),
            commits: BTreeMap::new(),
            ended: BTreeMap::new(),
            model: Offsets::new(),
            owners: BTreeMap::new(),
            lives: BTreeMap::new(),
            behind: BTreeSet::new(),
            stats: BTreeMap::new(),
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.stats.entry(what).or_default() += 1;
    }

    fn step(&mut self) {
        let member = self.rng.below(MEMBERS as u64) as usize;
        match self.rng.below(100) {
            0..55 => self.proceed(member),
            55..63 => self.commit(member),
            63..67 => self.leave(member),
            67..71 => self.fall_silent(member),
            71..74 => self.come_back(member),
            74..76 => self.administer(),
            76..84 => {
                let by_ms = [10, 500, 3000, 12_000, 61_000][self.rng.below(5) as usize];
                self.d.advance(by_ms);
            }
            84..86 => self.reload(),
            _ => self.end_a_write(),
        }
        self.react();
        // Most disks are quick.
        while !self.d.writes.is_empty() && !self.rng.one_in(3) {
            self.end_a_write();
            self.react();
        }
        self.check_committed();
    }

    /// What a client does next.
    fn proceed(&mut self, index: usize) {
        let member = &self.members[index];
        let (group, id, instance) = (member.group, member.id.clone(), member.instance.clone());
        match member.phase.clone() {
            Phase::Out => self.ask_to_join(index),
            Phase::Joining(_) | Phase::Syncing(..) => {}
            Phase::Joined(generation, members) => {
                let assignments = members
                    .map(|members| Self::assign(&members))
                    .unwrap_or_default();
                let assignments: Vec<(&str, &[u8])> = assignments
                    .iter()
                    .map(|(id, bytes)| (id.as_str(), &bytes[..]))
                    .collect();
                let mut request = sync_data(group, &id, generation, &assignments);
                request.group_instance_id = instance.as_deref().map(text);
                let token = self.d.ask(corelog_core::group::Request::Sync {
                    version: 3,
                    request,
                });
                self.members[index].phase = Phase::Syncing(generation, token);
            }
            Phase::Consuming(generation, _) => {
                let beat = heartbeat(group, &id, generation, instance.as_deref());
                match code(&self.d.answer(beat)) {
                    NONE => self.count("heartbeats"),
                    REBALANCE_IN_PROGRESS => self.ask_to_join(index),
                    ILLEGAL_GENERATION | UNKNOWN_MEMBER_ID | FENCED_INSTANCE_ID => {
                        self.lose(index);
                    }
                    COORDINATOR_NOT_AVAILABLE => {}
                    other => panic!("seed {}: heartbeat: {other}", self.seed),
                }
            }
        }
    }

    /// The member is no longer one: it starts over.
    fn lose(&mut self, index: usize) {
        let member = &mut self.members[index];
        member.id.clear();
        member.phase = Phase::Out;
    }

    fn ask_to_join(&mut self, index: usize) {
        let member = &self.members[index];
        let assignors: &[(&str, &[&str])] = match self.rng.below(6) {
            0 => &[("range", &["t"]), ("sticky", &["t"])],
            1 => &[("sticky", &["t", "u"]), ("range", &["t", "u"])],
            _ => &[("range", &["t"])],
        };
        let (group, version) = (member.group, member.version);
        let request = join_as(
            version,
            group,
            &member.id,
            member.instance.as_deref(),
            assignors,
        );
        let token = self.d.ask(request);
        self.members[index].phase = Phase::Joining(token);
    }

    /// Range over the members.
    fn assign(members: &[String]) -> Vec<(String, Vec<u8>)> {
        let count = members.len() as u8;
        let mut all = Vec::new();
        for (index, id) in members.iter().enumerate() {
            let mine = (0..PARTITIONS).filter(|partition| partition % count == index as u8);
            all.push((id.clone(), mine.collect()));
        }
        all
    }

    fn commit(&mut self, index: usize) {
        let offset = self.rng.below(1000) as i64;
        let member = &self.members[index];
        let writes = self.d.writes.back().map(|(write, _)| *write);
        let request = match &member.phase {
            Phase::Consuming(generation, owned) => {
                let partition = i32::from(owned.first().copied().unwrap_or(0));
                commit(
                    member.group,
                    &member.id,
                    *generation,
                    &[("t", partition, offset)],
                )
            }
            // A consumer that manages its partitions itself.
            _ => commit(member.group, "", -1, &[("s", 0, offset)]),
        };
        let token = self.d.ask(request);
        match self.d.writes.back() {
            Some((write, _)) if Some(*write) != writes => {
                self.commits.insert(token, *write);
            }
            _ => assert_ne!(commit_code(&self.d.take(token)), NONE, "seed {}", self.seed),
        }
    }

    fn leave(&mut self, index: usize) {
        let member = &self.members[index];
        if member.id.is_empty() {
            return;
        }
        let id = member.id.clone();
        let request = leave(member.group, &[(&id, member.instance.as_deref())]);
        self.d.answer(request);
        self.abandon(index);
        self.members[index].id.clear();
    }

    /// The process is gone; what it asked is cancelled, or its broken connection is not noticed.
    fn fall_silent(&mut self, index: usize) {
        if self.rng.one_in(2)
            && let Some(token) = self.members[index].token()
        {
            self.d.event(Event::Cancelled { token });
            if !self.d.answered.contains(&token) {
                self.unwanted.insert(token);
            }
        }
        self.abandon(index);
        self.members[index].id.clear();
    }

    /// Forgets what the member waits for; it may still be answered.
    fn abandon(&mut self, index: usize) {
        self.members[index].phase = Phase::Out;
    }

    /// A member asks again without having had its answer.
    fn come_back(&mut self, index: usize) {
        match self.members[index].phase {
            Phase::Joining(_) => self.ask_to_join(index),
            Phase::Syncing(generation, _) => {
                self.members[index].phase = Phase::Joined(generation, None);
                self.proceed(index);
            }
            _ if self.members[index].instance.is_some() => {
                // A static member that is restarted.
                self.members[index].id.clear();
                self.ask_to_join(index);
            }
            _ => {}
        }
    }

    fn administer(&mut self) {
        let group = GROUPS[self.rng.below(2) as usize];
        if self.rng.one_in(2) {
            self.d.ask(delete(group));
        } else {
            let topics = vec![("s".to_owned(), corelog_core::Uuid::default())];
            self.d.event(Event::TopicsDeleted(topics));
        }
    }

    fn end_a_write(&mut self) {
        let Some((write, _)) = self.d.writes.front() else {
            return;
        };
        let write = *write;
        let errors = [
            WriteError::NotLeader,
            WriteError::TimedOut,
            WriteError::TooLarge,
        ];
        let result = match self.rng.below(10) {
            0 => Err(errors[self.rng.below(3) as usize]),
            _ => Ok(()),
        };
        self.ended.insert(write, result.is_ok());
        let records = self.d.writes[0].1.clone();
        if result.is_ok() {
            self.land(&records);
        } else {
            self.count("failed writes");
            for record in &records {
                if let Ok(Key::GroupMetadata { group }) = decode_key(&record.key) {
                    self.behind.insert(group);
                }
            }
        }
        self.d.finish(result);
    }

    /// Records reached the disk.
    fn land(&mut self, records: &[WriteRecord]) {
        for record in records {
            match decode_key(&record.key).unwrap() {
                Key::OffsetCommit {
                    group,
                    topic,
                    partition,
                } => {
                    let key = (group, topic, partition);
                    match &record.value {
                        Some(value) => {
                            let value = OffsetCommitValue::decode(value).unwrap();
                            self.model.insert(key, value.offset);
                        }
                        None => {
                            self.model.remove(&key);
                        }
                    }
                }
                Key::GroupMetadata { group } => {
                    self.behind.remove(&group);
                    if record.value.is_none() {
                        let name = GROUPS.iter().find(|name| **name == group).unwrap();
                        *self.lives.entry(name).or_default() += 1;
                    }
                }
                Key::Other { version } => panic!("a key of version {version}"),
            }
        }
    }

    /// Members take their answers.
    fn react(&mut self) {
        for index in 0..MEMBERS {
            let Some(token) = self.members[index].token() else {
                continue;
            };
            let Some(response) = self.d.replies.remove(&token) else {
                continue;
            };
            match response {
                Response::Join(joined) => {
                    let id = joined.member_id.as_str().to_owned();
                    match joined.error_code {
                        NONE => {
                            let leads =
                                joined.leader == joined.member_id && !joined.skip_assignment;
                            let members = joined.members.iter();
                            let members = members.map(|m| m.member_id.as_str().to_owned());
                            let members = leads.then(|| members.collect());
                            self.members[index].phase =
                                Phase::Joined(joined.generation_id, members);
                            self.members[index].id = id;
                            self.count("joins");
                        }
                        MEMBER_ID_REQUIRED => {
                            self.members[index].id = id;
                            self.members[index].phase = Phase::Out;
                        }
                        REBALANCE_IN_PROGRESS => self.members[index].phase = Phase::Out,
                        _ => self.lose(index),
                    }
                }
                Response::Sync(synced) => self.synced(index, synced.error_code, &synced.assignment),
                other => panic!("seed {}: {other:?}", self.seed),
            }
        }
        let answered: Vec<u64> = self
            .commits
            .keys()
            .copied()
            .filter(|token| !self.d.is_parked(*token))
            .collect();
        for token in answered {
            let write = self.commits.remove(&token).unwrap();
            let acknowledged = commit_code(&self.d.take(token)) == NONE;
            let ended = self.ended.get(&write);
            assert_eq!(
                Some(&acknowledged),
                ended,
                "seed {}: commit {token}",
                self.seed
            );
            self.count("commits");
        }
    }

    fn synced(&mut self, index: usize, code: i16, assignment: &Bytes) {
        let Phase::Syncing(generation, _) = self.members[index].phase else {
            unreachable!("its token waited");
        };
        match code {
            NONE => {}
            REBALANCE_IN_PROGRESS => {
                self.members[index].phase = Phase::Out;
                return;
            }
            _ => return self.lose(index),
        }
        let owner = self.members[index].owner();
        let group = self.members[index].group;
        let life = self.lives.get(group).copied().unwrap_or(0);
        let owners = self.owners.entry((group, life, generation)).or_default();
        for partition in assignment.iter() {
            let held = owners.entry(*partition).or_insert_with(|| owner.clone());
            assert_eq!(
                *held, owner,
                "seed {}: two owners of {partition} in {group} {generation}",
                self.seed
            );
        }
        self.members[index].phase = Phase::Consuming(generation, assignment.to_vec());
        self.count("assignments");
    }

    /// The coordinator is gone, and another one is loaded from the disk. Writes that had not
    /// ended may or may not have reached it.
    fn reload(&mut self) {
        let mut landed = self.rng.below(1 + self.d.writes.len() as u64);
        for (write, records) in std::mem::take(&mut self.d.writes) {
            if landed > 0 {
                landed -= 1;
                self.d.append(&records);
                self.land(&records);
            }
            self.ended.remove(&write);
        }
        let answered = std::mem::take(&mut self.d.answered);
        self.unwanted.extend(0..self.d.next_token);
        self.unwanted.retain(|token| !answered.contains(token));
        self.commits.clear();
        self.behind.clear();
        let mut next = self.d.reloaded();
        next.auto = false;
        next.answered = answered;
        self.d = next;
        self.ended.clear();
        for member in &mut self.members {
            if member.token().is_some() {
                member.phase = Phase::Out;
            }
        }
        self.count("reloads");
    }

    fn check_committed(&self) {
        let shown: Offsets = self
            .d
            .committed()
            .into_iter()
            .map(|(g, t, p, o)| ((g, t, p), o))
            .collect();
        assert_eq!(shown, self.model, "seed {}", self.seed);
    }

    /// What a load of the disk would give is what is there, as far as it is durable.
    fn check_reload(&mut self) {
        if !self.d.writes.is_empty() {
            return;
        }
        let mut loaded = self.d.reloaded();
        assert_eq!(loaded.coordinator.unreadable_records(), 0);
        assert_eq!(loaded.committed(), self.d.committed(), "seed {}", self.seed);
        for group in GROUPS {
            let here = self.d.describe(group);
            let there = loaded.describe(group);
            let durable = match here.group_state.as_str() {
                "Stable" => true,
                // A group that never had members lives by its offsets alone.
                "Empty" => !here.protocol_type.is_empty(),
                _ => false,
            };
            // Over the limit, a load begins a rebalance.
            let fits = here.members.len() <= self.d.settings.max_size;
            if durable && fits && !self.behind.contains(group) {
                assert_eq!(there, here, "seed {}", self.seed);
                self.count("reloads checked");
            }
        }
    }

    /// Nobody does anything any more: in the end nobody waits.
    fn settle(&mut self) {
        while !self.d.writes.is_empty() {
            self.ended.insert(self.d.writes[0].0, true);
            let records = self.d.writes[0].1.clone();
            self.land(&records);
            self.d.finish(Ok(()));
        }
        self.d.auto = true;
        self.react();
        let asked = self.d.next_token;
        // The time for new members to join, a rebalance, its assignments, and a session.
        let silence_ms = 5 * 60_000 + 2 * REBALANCE_MS + SESSION_MS + 1;
        self.d.advance(silence_ms);
        for token in 0..asked {
            let answered = self.d.answered.contains(&token);
            let wanted = !self.unwanted.contains(&token);
            assert_eq!(answered, wanted, "seed {}: token {token}", self.seed);
        }
        let counts = self.d.coordinator.group_counts();
        let with_members = counts.preparing_rebalance + counts.completing_rebalance + counts.stable;
        assert_eq!(with_members, 0, "seed {}: everybody is gone", self.seed);
    }
}

#[test]
fn r22_r23_random_histories_keep_one_owner_every_answer_and_every_commit() {
    let mut stats: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in 0..HISTORIES {
        let mut world = World::new(seed);
        let steps = 20 + world.rng.below(60);
        for step in 0..steps {
            world.step();
            if step % 8 == 7 {
                world.check_reload();
            }
        }
        world.settle();
        world.check_reload();
        for (what, number) in world.stats {
            *stats.entry(what).or_default() += number;
        }
    }
    // A history that goes nowhere proves nothing.
    for what in [
        "joins",
        "assignments",
        "heartbeats",
        "commits",
        "failed writes",
        "reloads",
        "reloads checked",
    ] {
        let number = stats.get(what).copied().unwrap_or(0);
        assert!(number >= HISTORIES / 2, "only {number} {what}: {stats:?}");
    }
}

#[test]
fn histories_depend_on_their_seed_alone() {
    let run = |seed| {
        let mut world = World::new(seed);
        for _ in 0..60 {
            world.step();
        }
        (world.d.log.clone(), world.d.next_token)
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}
