// A member of a consumer group on kafkajs, whose own assigner is round robin. The words it writes are those of group_member.py.
//   node group_member.js BOOTSTRAP GROUP TOPIC NAME LOG SESSION_MS
'use strict'
const fs = require('fs')
const path = require('path')
const { createRequire } = require('module')
// kafkajs lives where tools/interop/setup put it, not beside this file.
const { Kafka, logLevel } = createRequire(path.join(process.env.INTEROP_NODE, 'index.js'))('kafkajs')

const [bootstrap, groupId, topic, name, file, sessionMs] = process.argv.slice(2)
const log = fs.openSync(file, 'a')
let owned = []

function write (...rows) {
  const now = process.hrtime.bigint()
  fs.writeSync(log, rows.map(row => `${now} ${row}\n`).join(''))
}

function give (what) {
  if (owned.length > 0) write(`${what} ${owned.join(',')}`)
  owned = []
}

async function eachBatch ({ batch, resolveOffset, heartbeat, isRunning, isStale }) {
  if (!isRunning() || isStale()) return
  const p = batch.partition
  write(...batch.messages.map(m => `got ${p} ${m.offset} ${m.value}`))
  const last = batch.messages[batch.messages.length - 1].offset
  const next = String(BigInt(last) + 1n)
  try {
    await consumer.commitOffsets([{ topic, partition: p, offset: next }])
  } catch (error) {
    write(`refused ${error.type || error.name}`)
    throw error
  }
  write(`committed ${p} ${next}`)
  resolveOffset(last)
  await heartbeat()
}

const kafka = new Kafka({ clientId: name, brokers: [bootstrap], logLevel: logLevel.ERROR })
const consumer = kafka.consumer({ groupId, sessionTimeout: Number(sessionMs), heartbeatInterval: 500, maxWaitTimeInMs: 100 })

async function main () {
  const { GROUP_JOIN, REBALANCING } = consumer.events
  consumer.on(GROUP_JOIN, ({ payload }) => {
    give('revoked')
    owned = payload.memberAssignment[topic] || []
    write(`assigned ${owned.join(',')}`)
  })
  consumer.on(REBALANCING, () => give('revoked'))
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  await consumer.run({ autoCommit: false, eachBatchAutoResolve: false, eachBatch })
  process.stdin.resume()
  process.stdin.on('end', async () => {
    await consumer.disconnect()
    give('revoked')
    write('left')
    process.exit(0)
  })
}

main().catch(error => { console.error(error); process.exit(1) })
