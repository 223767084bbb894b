// mqtt.js, MQTT 3.1.1 and 5.0. Arguments: URL (mqtt, mqtts, ws or wss), first level of the topics
// to use, list of steps (mqtt, password). The environment is explained in steps.py.
'use strict';
const assert = require('node:assert/strict');
const fs = require('node:fs');
const mqtt = require('mqtt');

const [url, first, list] = process.argv.slice(2);
const { INTEROP_CA: ca, INTEROP_USER: username, INTEROP_PASSWORD: password } = process.env;
const DEADLINE_MS = 20000;
const range = (count) => Array.from({ length: count }, (_, n) => `v${n}`);

async function step(name, action) {
  try {
    await action();
    console.log(`PASS ${name}`);
  } catch (error) {
    console.error(error);
    console.log(`FAIL ${name}: ${String(error.message).replace(/\s+/g, ' ')}`);
  }
}

// Connects; what the client hears waits in `heard`, `connack` says how it was received.
async function connect(protocolVersion, more = {}) {
  const settings = { protocolVersion, reconnectPeriod: 0, username, password, ...more };
  if (ca) settings.ca = [fs.readFileSync(ca)];
  const client = mqtt.connect(url, settings);
  client.heard = [];
  client.on('message', (topic, payload, packet) => client.heard.push(packet));
  client.on('packetreceive', (packet) => {
    if (packet.cmd === 'connack') client.connack = packet;
  });
  try {
    await new Promise((connected, failed) => {
      client.once('connect', connected);
      client.once('error', failed);
      client.once('close', () => failed(new Error('closed')));
    });
  } catch (error) {
    error.connack = client.connack;
    client.end(true);
    throw error;
  }
  client.on('error', () => {});
  return client;
}

async function take(client, count) {
  const deadline = Date.now() + DEADLINE_MS;
  while (client.heard.length < count) {
    if (Date.now() > deadline) throw new Error(`${client.heard.length} of ${count} messages`);
    await new Promise((done) => setTimeout(done, 5));
  }
  assert.equal(client.heard.length, count);
  return client.heard;
}

const payloads = (packets) => packets.map((packet) => packet.payload.toString());

async function atQos(version, root, qos) {
  const subscriber = await connect(version);
  const publisher = await connect(version);
  await subscriber.subscribeAsync(`${root}/qos${qos}/#`, { qos: 2 });
  // For QoS 1 and 2 this is over when the broker has acknowledged all.
  await Promise.all(range(100).map((v) => publisher.publishAsync(`${root}/qos${qos}/a`, v, { qos })));
  const got = await take(subscriber, 100);
  assert.deepEqual(payloads(got), range(100));
  assert.deepEqual([...new Set(got.map((m) => `${m.qos} ${m.retain}`))], [`${qos} false`]);
  await subscriber.endAsync();
  await publisher.endAsync();
}

async function retained(version, root) {
  const publisher = await connect(version);
  await publisher.publishAsync(`${root}/kept/gone`, 'off', { qos: 1, retain: true });
  await publisher.publishAsync(`${root}/kept/gone`, '', { qos: 1, retain: true });
  await publisher.publishAsync(`${root}/kept/a`, 'on', { qos: 1, retain: true });
  const subscriber = await connect(version);
  await subscriber.subscribeAsync(`${root}/kept/#`, { qos: 1 });
  // What is not retained comes behind what is.
  await publisher.publishAsync(`${root}/kept/b`, 'live', { qos: 1 });
  const got = await take(subscriber, 2);
  assert.deepEqual(got.map((m) => `${m.payload} ${m.retain}`), ['on true', 'live false']);
  await subscriber.endAsync();
  await publisher.endAsync();
}

async function will(version, root) {
  const subscriber = await connect(version);
  await subscriber.subscribeAsync(`${root}/will`, { qos: 1 });
  const dying = await connect(version, { will: { topic: `${root}/will`, payload: 'gone', qos: 1 } });
  dying.stream.destroy();
  assert.deepEqual(payloads(await take(subscriber, 1)), ['gone']);
  await subscriber.endAsync();
}

async function keptWhileAway(version, root) {
  const session = { clientId: `${root}-session`, clean: false };
  if (version === 5) session.properties = { sessionExpiryInterval: 3600 };
  const before = await connect(version, session);
  assert.equal(before.connack.sessionPresent, false);
  await before.subscribeAsync(`${root}/away/#`, { qos: 1 });
  await before.endAsync();
  const publisher = await connect(version);
  for (const v of range(10)) await publisher.publishAsync(`${root}/away/a`, v, { qos: 1 });
  await publisher.endAsync();
  const after = await connect(version, session);
  assert.equal(after.connack.sessionPresent, true);
  assert.deepEqual(payloads(await take(after, 10)), range(10));
  await after.endAsync();
}

async function rightPassword(version, root) {
  const client = await connect(version);
  await client.subscribeAsync(`${root}/secret`, { qos: 1 });
  await client.publishAsync(`${root}/secret`, 'told', { qos: 1 });
  assert.deepEqual(payloads(await take(client, 1)), ['told']);
  await client.endAsync();
}

async function wrongPassword(version) {
  const { connack } = await connect(version, { password: 'not the password' }).then(
    () => assert.fail('it was let in'),
    (error) => error,
  );
  const [code, due] = version === 5 ? [connack.reasonCode, 0x86] : [connack.returnCode, 4];
  assert.equal(code, due);
}

async function main() {
  console.log(`VERSION ${require('mqtt/package.json').version}`);
  for (const [version, name] of [[4, '3.1.1'], [5, '5.0']]) {
    const root = `${first}-${name}`;
    if (list === 'password') {
      await step(`${name} right password`, () => rightPassword(version, root));
      await step(`${name} wrong password`, () => wrongPassword(version));
      continue;
    }
    for (const qos of [0, 1, 2]) await step(`${name} QoS ${qos}`, () => atQos(version, root, qos));
    await step(`${name} retained`, () => retained(version, root));
    await step(`${name} will`, () => will(version, root));
    await step(`${name} kept while away`, () => keptWhileAway(version, root));
  }
  process.exit(0);
}

main();
