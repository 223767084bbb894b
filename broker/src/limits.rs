//! Every bound, in one file, with its unit in its name.

/// Levels of a topic name or filter; bounds the depth of the trie.
pub const TOPIC_LEVELS_MAX: usize = 200;
/// Topic aliases that a client may be allowed to set: each keeps a topic of up to 64 KiB in memory.
pub const TOPIC_ALIASES_MAX: u16 = 1_000;
/// Topics a shard keeps match results for; the cache starts over when it is full.
pub const MATCH_CACHE_TOPICS_MAX: usize = 20_000;
/// Bytes they may take, about: one topic may be 64 KiB long, or have 100,000 subscribers.
pub const MATCH_CACHE_BYTES_MAX: usize = 64 << 20;
/// Bytes read from a connection at a time, into a buffer its shard shares.
pub const READ_BYTES: usize = 64 << 10;
/// The same while its shard's journal is behind: who has something to say that has to be written keeps it so long.
pub const READ_BEHIND_BYTES: usize = 2 << 10;
/// Bytes read of a client that waits for room on the disk: enough to see that it has gone.
pub const READ_AHEAD_BYTES: usize = 16 << 10;
/// Bytes by which an unfinished packet has to grow to count as a sign of life: within 1.5 times the keep alive.
pub const PROGRESS_BYTES_MIN: usize = 1 << 10;
/// Milliseconds that a client which is too fast is not read at least: fewer pauses, as long in all.
pub const PAUSE_MS_MIN: u64 = 20;
/// Milliseconds after which it is looked at again, however long it has to wait: the connection may be gone by then.
pub const PAUSE_MS_MAX: u64 = 1_000;
/// Reads a connection may do before others get their turn.
pub const READS_PER_TURN: usize = 2;
/// Packets that are handled at a time; a read may hold 32,000 PINGREQs.
pub const PACKETS_PER_READ: usize = 1_000;
/// Acknowledgements of one client that wait for their commit, above which it is not read.
pub const HELD_MAX: usize = 1_000;
/// Journal backlog of a shard above which its publishers are not read.
pub const BACKLOG_BYTES_MAX: usize = 2 << 20;
/// Journal backlog of a shard above which what was given up in memory alone is no dead letter.
pub const LETTERS_BACKLOG_BYTES_MAX: usize = 2 * BACKLOG_BYTES_MAX;
/// Dead letters of queues that a shard hands in before others get their turn.
pub const LETTERS_PER_TURN: usize = 1_000;
/// Clients that one dead letter names.
pub const LETTER_RECIPIENTS_MAX: usize = 1_000;
/// Entries beyond `max_queued_messages` that a queue which drops its oldest may have while they become dead letters.
pub const QUEUE_OVERHANG_MAX: usize = 10_000;
/// Bytes of messages from other shards that wait for a shard, above which no publisher is read.
pub const BURST_BYTES_MAX: usize = 4 << 20;
/// Threads of a shard that wait for cold reads of the log.
pub const BLOCKING_THREADS_MAX: usize = 8;
/// Milliseconds that what nobody waits for may lie before it is committed: client acknowledgements, QoS 0
/// for the log (J6). Whatever is waited for takes it along at once.
pub const RIDE_ALONG_MS: u64 = 50;
/// Bytes of it that are committed at once.
pub const RIDE_ALONG_BYTES_MAX: usize = 128 << 10;
/// QoS 2 messages in memory that wait until the queue of a session that has ended is durably without them.
pub const LEAVING_MAX: usize = 1000;
/// Messages sent to a client that is back before it is durable that it is.
pub const SENT_BEFORE_RESUMED_MAX: usize = 16;
/// A wall clock that moves by more seconds than this beside the one that never jumps was set (R5).
pub const CLOCK_SET_S: i64 = 3600;
/// Seconds since 1970 to 2020: what a clock says before was never set, and is no time to count from.
pub const CLOCK_IS_SET_FROM_S: u64 = 1_577_836_800;
/// Seconds in which the journal moved on, for which it is known what a durable session had subscribed to that ended.
pub const ENDED_LOOKS: u32 = 10;
/// Entries that members of shared subscriptions which are away are relieved of at once, each second and shard.
pub const RELIEVED_ENTRIES_MAX: usize = 10_000;
/// A member with as many in its queue gets nothing that waited for another.
pub const RELIEF_QUEUED_MAX: usize = 1_000;
/// Output buffers a shard keeps for reuse, and how large one may be to be kept.
pub const SPARE_BUFFERS_MAX: usize = 256;
/// See [`SPARE_BUFFERS_MAX`].
pub const SPARE_BUFFER_BYTES_MAX: usize = 256 << 10;
/// Bytes waiting to be written to a client above which QoS 0 for it is dropped.
pub const OUTBOX_QOS0_BYTES_MAX: usize = 4 << 20;
/// Bytes waiting to be written above which nothing more is taken out of a client's queue.
pub const OUTBOX_BYTES_MAX: usize = 1 << 20;
/// The same two while memory is scarce.
pub const OUTBOX_SCARCE_BYTES_MAX: usize = 64 << 10;
/// Bytes waiting to be written to a client above which nothing is read from it; above what deliveries alone
/// can reach, but for a single large one.
pub const OUTBOX_STALL_BYTES: usize = 2 * OUTBOX_QOS0_BYTES_MAX;
/// Retained messages removed at once when they expire; the rest a second later, for meanwhile nobody can read any.
pub const RETAINED_EXPIRED_AT_ONCE_MAX: usize = 20_000;
/// Retained messages that an administrator removes in one operation; deliveries go on in between.
pub const RETAINED_REMOVED_AT_ONCE_MAX: usize = 1_000;
/// Sessions that a shard looks at before others get their turn, when an administrator wants them listed.
pub const LISTED_AT_ONCE_MAX: usize = 4_096;
/// Subscriptions of a session that an administrator is told.
pub const LISTED_SUBSCRIPTIONS_MAX: usize = 1_000;
/// Bytes that a retained message takes besides topic, payload, properties and client id, for `mqtt.max_retained_bytes`. With the
/// two below: measured for a million of them, on topics of several kinds.
pub const RETAINED_MESSAGE_BYTES: usize = 176;
/// Bytes of a level of their topics that no other one has.
pub const RETAINED_NODE_BYTES: usize = 80;
/// Bytes of a level of their topics that has another one below it.
pub const RETAINED_BRANCH_BYTES: usize = 192;
/// Seconds between two lines in the log about retained messages that have no place.
pub const RETAINED_WARNING_S: u64 = 60;
/// Topic aliases set for one client, whatever it allows: each keeps its topic in memory.
pub const OUTBOUND_ALIASES_MAX: u16 = 64;
/// Bytes of a topic that gets an alias: an alias takes three itself.
pub const ALIASED_TOPIC_BYTES_MIN: usize = 6;
/// See [`ALIASED_TOPIC_BYTES_MIN`].
pub const ALIASED_TOPIC_BYTES_MAX: usize = 1 << 10;
/// Seconds a durable session outlives a restart at least, unless it expires sooner by itself (R5).
pub const EXPIRY_AFTER_START_S: u64 = 600;
/// Seconds that wills of durable sessions wait after a restart at least (R5).
pub const WILL_AFTER_START_S: u64 = 30;
/// Seconds a closing connection has to take what is still to be written.
pub const CLOSE_S: u64 = 3;
/// Bytes that are still read, and thrown away, from a client that was told why it is closed.
pub const CLOSE_BYTES_MAX: usize = 1 << 20;
/// Bytes of a proxy's header; a client's certificate may be in it.
pub const PROXY_HEADER_BYTES_MAX: usize = 4 << 10;
/// Seconds between two lines of the log that say the same of a listener.
pub const SAY_AGAIN_S: u64 = 10;
/// Lines within that time on clients that were refused, each with its reason: those that were told it, and the others.
pub const REFUSALS_SAID_MAX: u32 = 100;
/// Open files that connections leave to log, journal and state; a quarter, where few are allowed.
pub const FILES_RESERVED: u64 = 256;
/// Bytes that a client may send before it is let in, and nobody counts: TLS, an upgrade to WebSocket and a CONNECT
/// of a usual size.
pub const STRANGER_BYTES_FREE: usize = 8 << 10;
/// Bytes beyond that of all clients of a listener that are not let in yet: a CONNECT may be as large as any packet.
pub const STRANGERS_BYTES_MAX: usize = 32 << 20;
/// Characters of a name that a peer gave, in a line of the log.
pub const LOGGED_CHARS_MAX: usize = 100;
/// Bytes of a password file or access control list.
pub const ACCESS_FILE_BYTES_MAX: usize = 32 << 20;
/// Mistakes in one of them that are told.
pub const ACCESS_PROBLEMS_MAX: usize = 20;
/// Users in a password file.
pub const USERS_MAX: usize = 100_000;
/// Bytes of a user's name: what an MQTT string holds.
pub const USER_NAME_BYTES_MAX: usize = u16::MAX as usize;
/// Lines of an access control list.
pub const ACL_LINES_MAX: usize = 500_000;
/// Passwords that are hashed at once: each takes a core, and memory.
pub const PASSWORDS_AT_ONCE_MAX: usize = 2;
/// Passwords that wait to be hashed; further ones are refused.
pub const PASSWORDS_WAITING_MAX: usize = 1_000;
