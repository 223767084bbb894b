// mqtt.js, MQTT 3.1, 3.1.1 and 5.0. Arguments: URL (mqtt, mqtts, ws or wss), first level of the topics
// to use, list of steps (mqtt, password). The environment is explained in steps.py.
'use strict';
const assert = require('node:assert/strict');
const { execFile } = require('node:child_process');
const fs = require('node:fs');
const { setTimeout: sleep } = require('node:timers/promises');
const { promisify } = require('node:util');
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

// Connects; what the client hears waits in `heard`, every packet in `packets`, and `connack` says how it was
// received.
async function connect(protocolVersion, more = {}) {
  const settings = { protocolVersion, reconnectPeriod: 0, username, password, ...more };
  if (protocolVersion === 3) settings.protocolId = 'MQIsdp';
  if (ca) settings.ca = [fs.readFileSync(ca)];
  const client = mqtt.connect(url, settings);
  client.heard = [];
  client.packets = [];
  client.on('message', (topic, payload, packet) => client.heard.push({ ...packet, topic }));
  client.on('packetreceive', (packet) => {
    client.packets.push({ ...packet });
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

// Runs a step with these clients connected, by their settings, and closes them behind it.
async function having(version, settings, action) {
  const clients = await Promise.all(settings.map((more) => connect(version, more)));
  await action(...clients);
  await Promise.all(clients.map((client) => client.endAsync()));
}

async function until(what, condition) {
  const deadline = Date.now() + DEADLINE_MS;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`${what()} did not come`);
    await sleep(5);
  }
}

async function take(client, count) {
  await until(() => `${count - client.heard.length} of ${count} messages`, () => client.heard.length >= count);
  assert.equal(client.heard.length, count);
  return client.heard.splice(0);
}

// What came before this, which nothing follows.
async function takeUntil(client, last) {
  const isLast = (packet) => packet.payload.toString() === last;
  await until(() => last, () => client.heard.some(isLast));
  const got = payloads(client.heard.splice(0));
  assert.equal(got.pop(), last);
  return got;
}

const payloads = (packets) => packets.map((packet) => packet.payload.toString());
const publish = (client, topic, payload, more = {}) => client.publishAsync(topic, payload, { qos: 1, ...more });
const subscribe = (client, topic, more = {}) => client.subscribeAsync(topic, { qos: 1, ...more });

const atQos = (qos) => (version, root) =>
  having(version, [{}, {}], async (subscriber, publisher) => {
    await subscribe(subscriber, `${root}/qos${qos}/#`, { qos: 2 });
    // For QoS 1 and 2 this is over when the broker has acknowledged all.
    await Promise.all(range(100).map((v) => publish(publisher, `${root}/qos${qos}/a`, v, { qos })));
    const got = await take(subscriber, 100);
    assert.deepEqual(payloads(got), range(100));
    assert.deepEqual([...new Set(got.map((m) => `${m.qos} ${m.retain}`))], [`${qos} false`]);
  });

const retained = (version, root) =>
  having(version, [{}, {}], async (subscriber, publisher) => {
    await publish(publisher, `${root}/kept/gone`, 'off', { retain: true });
    await publish(publisher, `${root}/kept/gone`, '', { retain: true });
    await publish(publisher, `${root}/kept/a`, 'on', { retain: true });
    await subscribe(subscriber, `${root}/kept/#`);
    // What is not retained comes behind what is.
    await publish(publisher, `${root}/kept/b`, 'live');
    const got = await take(subscriber, 2);
    assert.deepEqual(got.map((m) => `${m.payload} ${m.retain}`), ['on true', 'live false']);
  });

const will = (version, root) =>
  having(version, [{}], async (subscriber) => {
    await subscribe(subscriber, `${root}/will/#`);
    const dying = (name) => connect(version, { will: { topic: `${root}/will/${name}`, payload: 'gone', qos: 1 } });
    // One who says DISCONNECT leaves none.
    await (await dying('none')).endAsync();
    (await dying('gone')).stream.destroy();
    assert.deepEqual((await take(subscriber, 1)).map((m) => m.topic), [`${root}/will/gone`]);
  });

// Settings of one whose session is kept.
function keeping(version, clientId, sessionExpiryInterval = 3600) {
  return { clientId, clean: false, properties: version === 5 ? { sessionExpiryInterval } : undefined };
}

async function persistentSession(version, root) {
  const session = keeping(version, `${root}-session`);
  await having(version, [session], async (before) => {
    assert.equal(before.connack.sessionPresent, false);
    await subscribe(before, `${root}/away/#`, { qos: 2 });
  });
  await having(version, [{}], async (publisher) => {
    for (const [n, v] of range(10).entries()) await publish(publisher, `${root}/away/a`, v, { qos: (n % 2) + 1 });
  });
  await having(version, [session], async (after) => {
    // (3.1 has no such flag.)
    assert.equal(after.connack.sessionPresent, version !== 3);
    const got = await take(after, 10);
    for (const qos of [1, 2]) {
      // (Apart, for mqtt.js hands on a QoS 2 message when it is released.)
      const due = range(10).filter((_, n) => (n % 2) + 1 === qos);
      assert.deepEqual(payloads(got.filter((m) => m.qos === qos)), due);
    }
  });
}

const sharedSubscription = (version, root) =>
  having(version, [{}, {}, {}], async (publisher, ...members) => {
    for (const member of members) {
      await subscribe(member, `$share/group/${root}/shared/#`);
      await subscribe(member, `${root}/end`);
    }
    for (const v of range(100)) await publish(publisher, `${root}/shared/${v}`, v);
    await publish(publisher, `${root}/end`, 'end');
    const parts = await Promise.all(members.map((member) => takeUntil(member, 'end')));
    assert.deepEqual(parts.flat().sort(), range(100).sort());
    assert.deepEqual(parts.map((part) => part.length > 0), [true, true]);
  });

async function retainHandling(version, root) {
  // 0: always, 1: for a new subscription, 2: never.
  const due = [
    [[0, true], [1, false], [0, true], [2, false]],
    [[1, true], [1, false]],
    [[2, false], [0, true]],
  ];
  await having(version, [{}], async (publisher) => {
    await publish(publisher, `${root}/handling/a`, 'kept', { retain: true });
    for (const subscriptions of due) {
      await having(version, [{}], async (subscriber) => {
        const got = [];
        for (const [rh] of subscriptions) {
          await subscribe(subscriber, `${root}/handling/#`, { rh });
          await publish(publisher, `${root}/handling/b`, 'end');
          got.push([rh, (await takeUntil(subscriber, 'end')).includes('kept')]);
        }
        assert.deepEqual(got, subscriptions);
      });
    }
  });
}

const retainAsPublished = (version, root) =>
  having(version, [{}, {}, {}], async (publisher, one, other) => {
    await subscribe(one, `${root}/flag`, { rap: true });
    await subscribe(other, `${root}/flag`);
    await publish(publisher, `${root}/flag`, 'up', { retain: true });
    await publish(publisher, `${root}/flag`, 'down');
    assert.deepEqual((await take(one, 2)).map((m) => m.retain), [true, false]);
    assert.deepEqual((await take(other, 2)).map((m) => m.retain), [false, false]);
  });

const noLocal = (version, root) =>
  having(version, [{}, {}], async (one, other) => {
    await subscribe(one, `${root}/local`, { nl: true });
    await publish(one, `${root}/local`, 'own');
    await publish(other, `${root}/local`, "other's");
    assert.deepEqual(payloads(await take(one, 1)), ["other's"]);
  });

const subscriptionIdentifiers = (version, root) =>
  having(version, [{}], async (client) => {
    await subscribe(client, `${root}/number/#`, { properties: { subscriptionIdentifier: 7 } });
    await subscribe(client, `${root}/number/+`, { properties: { subscriptionIdentifier: 268435455 } });
    await publish(client, `${root}/number/a`, 'both');
    await publish(client, `${root}/number/a/b`, 'one');
    const got = (await take(client, 2)).map((m) => [m.properties.subscriptionIdentifier].flat());
    assert.deepEqual(got.map((all) => all.sort((a, b) => a - b)), [[7, 268435455], [7]]);
  });

const userProperties = (version, root) =>
  having(version, [{}], async (client) => {
    // (mqtt.js keeps the order of one name's values only.)
    const userProperties = { b: ['1', '3', '1'], a: '2', '': '' };
    const due = { userProperties, contentType: 'text/plain', payloadFormatIndicator: true };
    await subscribe(client, `${root}/pairs`);
    await publish(client, `${root}/pairs`, 'x', { properties: due });
    const [{ properties: got }] = await take(client, 1);
    assert.deepEqual({ ...got, userProperties: { ...got.userProperties } }, due);
  });

const topicAliasToBroker = (version, root) =>
  having(version, [{}, { autoAssignTopicAlias: true }], async (client, automatic) => {
    const sent = [];
    automatic.on('packetsend', (packet) => packet.cmd === 'publish' && sent.push(packet.topic));
    await subscribe(client, `${root}/alias/#`);
    for (const [topic, topicAlias] of [['a', 1], ['', 1], ['b', 2], ['', 1], ['', 2], ['c', 1], ['', 1]]) {
      await publish(client, topic && `${root}/alias/${topic}`, 'x', { properties: { topicAlias } });
    }
    for (const topic of 'ded') await publish(automatic, `${root}/alias/${topic}`, 'x');
    const got = await take(client, 10);
    assert.equal(got.map((m) => m.topic.split('/').pop()).join(''), 'aababccded');
    assert.equal(sent.pop(), '');
  });

const topicAliasFromBroker = (version, root) =>
  having(version, [{ properties: { topicAliasMaximum: 2 } }], async (client) => {
    await subscribe(client, `${root}/alias-from/#`);
    for (const topic of 'abcabc') await publish(client, `${root}/alias-from/${topic}`, topic);
    const got = await take(client, 6);
    assert.equal(got.map((m) => m.topic.split('/').pop()).join(''), 'abcabc');
    assert.deepEqual(got.map((m) => m.properties?.topicAlias), [1, 2, undefined, 1, 2, undefined]);
  });

async function messageExpiry(version, root) {
  const session = keeping(version, `${root}-expiry`);
  await having(version, [session], (before) => subscribe(before, `${root}/expiry/queued/#`));
  const publisher = await connect(version);
  for (const way of ['queued', 'retained']) {
    for (const messageExpiryInterval of [1, 60]) {
      const properties = { messageExpiryInterval };
      const topic = `${root}/expiry/${way}/${messageExpiryInterval}`;
      await publish(publisher, topic, way, { retain: way === 'retained', properties });
    }
  }
  await sleep(1500);
  await having(version, [session], async (after) => {
    await subscribe(after, `${root}/expiry/retained/#`);
    await publish(publisher, `${root}/expiry/queued/end`, 'end');
    const got = await take(after, 3);
    assert.deepEqual(payloads(got), ['queued', 'retained', 'end']);
    for (const { properties } of got.slice(0, 2)) {
      // Counted down.
      assert.ok(properties.messageExpiryInterval >= 50 && properties.messageExpiryInterval < 60);
    }
  });
  await publisher.endAsync();
}

async function sessionExpiry(version, root) {
  // As the CONNECT says, and as the DISCONNECT says then.
  const due = { a: [1, undefined, false], b: [3600, 1, false], c: [1, 3600, true] };
  for (const [name, [keep, sessionExpiryInterval]] of Object.entries(due)) {
    const client = await connect(version, keeping(version, `${root}-session-${name}`, keep));
    await client.endAsync(false, { properties: { sessionExpiryInterval } });
  }
  await sleep(1500);
  for (const [name, [, , present]] of Object.entries(due)) {
    await having(version, [keeping(version, `${root}-session-${name}`, 1)], async (client) => {
      assert.deepEqual([name, client.connack.sessionPresent], [name, present]);
    });
  }
}

const willDelay = (version, root) =>
  having(version, [{}], async (subscriber) => {
    const properties = { willDelayInterval: 1 };
    const dying = (name) =>
      connect(version, {
        ...keeping(version, `${root}-${name}`),
        will: { topic: `${root}/late/${name}`, payload: 'gone', qos: 1, properties },
      });
    await subscribe(subscriber, `${root}/late/#`);
    // One who is back in time leaves no will.
    (await dying('back')).stream.destroy();
    const gone = await dying('gone');
    const at = Date.now();
    gone.stream.destroy();
    await having(version, [keeping(version, `${root}-back`)], async () => {
      assert.deepEqual((await take(subscriber, 1)).map((m) => m.topic), [`${root}/late/gone`]);
    });
    assert.ok(Date.now() - at > 900);
  });

function answer(client, { payload, properties: { responseTopic, correlationData } }) {
  return publish(client, responseTopic, `answer to ${payload}`, { properties: { correlationData } });
}

const requestAndResponse = (version, root) =>
  having(version, [{}, {}], async (asking, answering) => {
    await subscribe(asking, `${root}/answers`);
    await subscribe(answering, `${root}/questions`);
    const marks = [0, 1, 2].map((n) => Buffer.from([0, n, 0xff]));
    for (const [n, correlationData] of marks.entries()) {
      const properties = { responseTopic: `${root}/answers`, correlationData };
      await publish(asking, `${root}/questions`, `${n}`, { properties });
    }
    for (const question of (await take(answering, 3)).reverse()) await answer(answering, question);
    const got = (await take(asking, 3)).map((m) => [m.payload.toString(), m.properties.correlationData]);
    assert.deepEqual(got, [2, 1, 0].map((n) => [`answer to ${n}`, marks[n]]));
  });

const answersMosquittoRr = (version, root) =>
  having(version, [{}], async (answering) => {
    await subscribe(answering, `${root}/rr`);
    const asking = promisify(execFile)(process.env.INTEROP_ASK, [`${root}/rr`]);
    await answer(answering, (await take(answering, 1))[0]);
    assert.equal((await asking).stdout, 'mark-7 answer to question\n');
  });

async function reasonForADisconnect(version, root) {
  const told = async (client) => {
    const last = () => client.packets.at(-1);
    await until(() => 'a DISCONNECT', () => last().cmd === 'disconnect');
    return last();
  };
  const double = await connect(version, { clientId: `${root}-double` });
  await having(version, [{ clientId: `${root}-double` }], async () => {
    assert.equal((await told(double)).reasonCode, 0x8e);
  });
  const client = await connect(version);
  // No Local on a shared subscription is a protocol error.
  client.subscribe(`$share/group/${root}/x`, { qos: 1, nl: true }, () => {});
  const { reasonCode, properties } = await told(client);
  assert.equal(reasonCode, 0x82);
  assert.ok(properties.reasonString);
}

const rightPassword = (version, root) =>
  having(version, [{}], async (client) => {
    await subscribe(client, `${root}/secret`);
    await publish(client, `${root}/secret`, 'told');
    assert.deepEqual(payloads(await take(client, 1)), ['told']);
  });

async function wrongPassword(version) {
  const { connack } = await connect(version, { password: 'not the password' }).then(
    () => assert.fail('it was let in'),
    (error) => error,
  );
  const [code, due] = version === 5 ? [connack.reasonCode, 0x86] : [connack.returnCode, 4];
  assert.equal(code, due);
}

const ALL = {
  'QoS 0': atQos(0),
  'QoS 1': atQos(1),
  'QoS 2': atQos(2),
  retained,
  will,
  'persistent session': persistentSession,
  'shared subscription': sharedSubscription,
};
const ONLY_5 = {
  'retain handling': retainHandling,
  'retain as published': retainAsPublished,
  'no local': noLocal,
  'subscription identifiers': subscriptionIdentifiers,
  'user properties': userProperties,
  'topic alias to the broker': topicAliasToBroker,
  'topic alias from the broker': topicAliasFromBroker,
  'message expiry': messageExpiry,
  'session expiry': sessionExpiry,
  'will delay': willDelay,
  'request and response': requestAndResponse,
  'answers mosquitto_rr': answersMosquittoRr,
  'reason for a DISCONNECT': reasonForADisconnect,
};
const PASSWORD_ONLY = { 'right password': rightPassword, 'wrong password': wrongPassword };

async function main() {
  console.log(`VERSION ${require('mqtt/package.json').version}`);
  for (const [version, name] of [[3, '3.1'], [4, '3.1.1'], [5, '5.0']]) {
    const root = `${first}-${name}`;
    const actions = list === 'password' ? PASSWORD_ONLY : { ...ALL, ...(version === 5 ? ONLY_5 : {}) };
    // All at once: some wait for time to pass.
    const steps = Object.entries(actions);
    await Promise.all(steps.map(([told, action]) => step(`${name} ${told}`, () => action(version, root))));
  }
  process.exit(0);
}

main();
