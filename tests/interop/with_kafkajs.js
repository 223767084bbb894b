// kafkajs: list, produce, consume, group. Arguments: bootstrap address, topic, list of steps
// (kafka, password). The environment is explained in steps.py.
'use strict';
const assert = require('node:assert/strict');
const fs = require('node:fs');
const { Kafka, logLevel } = require('kafkajs');

const [bootstrap, topic, list] = process.argv.slice(2);
const { INTEROP_CA: ca, INTEROP_USER: username, INTEROP_PASSWORD: password } = process.env;

function client(secret, more) {
  const settings = { brokers: [bootstrap], logLevel: logLevel.ERROR, ...more };
  if (ca) settings.ssl = { ca: [fs.readFileSync(ca)] };
  if (username) settings.sasl = { mechanism: 'plain', username, password: secret };
  return new Kafka(settings);
}

const kafka = client(password);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const range = (low, high) => Array.from({ length: high - low }, (_, n) => low + n);
let middleMs;
let readers = 0;

async function step(name, action) {
  try {
    await action();
    console.log(`PASS ${name}`);
  } catch (error) {
    console.error(error);
    console.log(`FAIL ${name}: ${String(error.message).replace(/\s+/g, ' ')}`);
  }
}

async function withAdmin(action) {
  const admin = kafka.admin();
  await admin.connect();
  try {
    return await action(admin);
  } finally {
    await admin.disconnect();
  }
}

async function metadata() {
  await withAdmin(async (admin) => {
    assert.equal(await admin.createTopics({ topics: [{ topic, numPartitions: 1 }] }), true);
    assert.ok((await admin.listTopics()).includes(topic));
    const told = await admin.fetchTopicMetadata({ topics: [topic] });
    assert.equal(told.topics[0].partitions.length, 1);
    const { brokers } = await admin.describeCluster();
    assert.deepEqual(brokers.map((b) => `${b.host}:${b.port}`), [bootstrap]);
  });
}

async function produce(numbers) {
  const producer = kafka.producer();
  await producer.connect();
  const messages = numbers.map((n) => ({ key: `k${n}`, value: `v${n}`, headers: { n: `${n}` } }));
  const [told] = await producer.send({ topic, acks: -1, messages });
  assert.equal(told.errorCode, 0);
  await producer.disconnect();
}

async function produceBothHalves() {
  await produce(range(0, 5));
  await pause(50);
  middleMs = Date.now();
  await pause(50);
  await produce(range(5, 10));
}

// A member of `groupId` that hands each message to `got`; kafkajs reads in groups only.
async function member(groupId, fromBeginning, got) {
  const consumer = kafka.consumer({ groupId, sessionTimeout: 10000, rebalanceTimeout: 10000, maxWaitTimeInMs: 500 });
  const joined = new Promise((done) => consumer.on(consumer.events.GROUP_JOIN, done));
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning });
  const eachMessage = async ({ message }) => got.push(message);
  await consumer.run({ autoCommit: false, eachMessage });
  await joined;
  return consumer;
}

async function until(what, condition) {
  const deadline = Date.now() + 20000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`not within 20 s: ${what()}`);
    await pause(20);
  }
}

const values = (messages) => messages.map((message) => message.value.toString());

async function read(count, fromBeginning, prepare, whenJoined) {
  const got = [];
  const consumer = await member(`reader-kafkajs-${readers++}`, fromBeginning, got);
  try {
    if (prepare) {
      got.length = 0;
      prepare(consumer);
    }
    if (whenJoined) await whenJoined(got);
    await until(() => `${count} messages, got ${values(got)}`, () => got.length >= count);
  } finally {
    await consumer.disconnect();
  }
  return got;
}

async function fromBeginning() {
  const got = await read(10, true);
  assert.deepEqual(values(got), range(0, 10).map((n) => `v${n}`));
  assert.deepEqual(got.map((m) => m.key.toString()), range(0, 10).map((n) => `k${n}`));
  assert.equal(got[3].headers.n.toString(), '3');
  assert.deepEqual(got.map((m) => m.offset), range(0, 10).map(String));
}

async function fromEnd() {
  const [told] = await withAdmin((admin) => admin.fetchTopicOffsets(topic));
  assert.deepEqual([told.low, told.high], ['0', '10']);
  const got = await read(1, false, null, async () => {
    // It asks for the end some moments after it joined.
    await pause(1500);
    await produce([10]);
  });
  assert.deepEqual(values(got), ['v10']);
}

const seek = (offset) => (consumer) => consumer.seek({ topic, partition: 0, offset });

async function fromOffset() {
  const got = await read(4, false, seek('7'));
  assert.deepEqual(values(got), ['v7', 'v8', 'v9', 'v10']);
}

async function fromTimestamp() {
  const found = await withAdmin((admin) => admin.fetchTopicOffsetsByTimestamp(topic, middleMs));
  assert.equal(found[0].offset, '5');
  assert.equal(values(await read(6, false, seek(found[0].offset)))[0], 'v5');
}

const group = 'with-kafkajs';
let joined;

async function join() {
  const got = [];
  joined = await member(group, true, got);
  await until(() => `4 messages, got ${values(got)}`, () => got.length >= 4);
  assert.deepEqual(values(got).slice(0, 4), ['v0', 'v1', 'v2', 'v3']);
}

async function commit() {
  await joined.commitOffsets([{ topic, partition: 0, offset: '4' }]);
  await joined.disconnect();
  const told = await withAdmin((admin) => admin.fetchOffsets({ groupId: group, topics: [topic] }));
  assert.equal(told[0].partitions[0].offset, '4');
}

async function resume() {
  const got = [];
  const consumer = await member(group, true, got);
  await until(() => `7 messages, got ${values(got)}`, () => got.length >= 7);
  await consumer.disconnect();
  assert.equal(values(got)[0], 'v4');
}

async function rightPassword() {
  await metadata();
  await produce([0]);
  assert.deepEqual(values(await read(1, true)), ['v0']);
}

async function wrongPassword() {
  const admin = client('not the password', { retry: { retries: 0 } }).admin();
  await assert.rejects(admin.connect(), { name: 'KafkaJSSASLAuthenticationError' });
  await admin.disconnect();
}

async function main() {
  console.log(`VERSION ${require('kafkajs/package.json').version}`);
  if (list === 'password') {
    await step('right password', rightPassword);
    await step('wrong password', wrongPassword);
    process.exit(0);
  }
  await step('metadata', metadata);
  await step('produce', produceBothHalves);
  await step('consume from the beginning', fromBeginning);
  await step('consume from the end', fromEnd);
  await step('consume from an offset', fromOffset);
  await step('consume from a timestamp', fromTimestamp);
  await step('group: join', join);
  await step('group: commit', commit);
  await step('group: resume', resume);
  process.exit(0);
}

main();
