// The kafkajs writer of the matrix suite.
//   node matrix.js write|keyed|odd BOOTSTRAP TOPIC [FILE]
// `write`: one record per line to partition 0; `keyed`: lines `key:value`; `odd`: the records of common.py's odd_records().
'use strict'
const fs = require('fs')
const path = require('path')
const { createRequire } = require('module')
// kafkajs lives where tools/interop/setup put it, not beside this file.
const { Kafka, logLevel, Partitioners } = createRequire(path.join(process.env.INTEROP_NODE, 'index.js'))('kafkajs')

const [action, bootstrap, topic, file] = process.argv.slice(2)

function oddRecords () {
  const big = Buffer.alloc(1 << 20)
  for (let i = 0; i < big.length; i++) big[i] = (i * 31 + 7) & 255
  const many = {}
  for (let i = 0; i < 64; i++) many['h' + String(i).padStart(2, '0')] = Buffer.alloc(i % 5, i)
  const rows = [
    [null, null, {}],
    [Buffer.alloc(0), Buffer.alloc(0), {}],
    [Buffer.from('tombstone'), null, {}],
    [null, Buffer.from('value'), {}],
    [Buffer.from([0, 255, 10]), Buffer.concat([Buffer.from([0xc3, 0x28]), Buffer.from(' not utf-8')]),
      { one: [Buffer.alloc(0), Buffer.from('twice')] }],
    [Buffer.from('headers'), Buffer.from('64'), many],
    [Buffer.from('big'), big, {}]
  ]
  return rows.map(([key, value, headers], i) => ({ key, value, headers, partition: 0, timestamp: String(1700000000000 + i) }))
}

function records () {
  if (action === 'odd') return oddRecords()
  const lines = fs.readFileSync(file, 'utf8').split('\n').slice(0, -1)
  if (action === 'write') return lines.map(value => ({ value, partition: 0 }))
  return lines.map(line => {
    const at = line.indexOf(':')
    return { key: line.slice(0, at), value: line.slice(at + 1) }
  })
}

async function main () {
  const kafka = new Kafka({ clientId: 'interop', brokers: [bootstrap], logLevel: logLevel.ERROR })
  const producer = kafka.producer({ createPartitioner: Partitioners.DefaultPartitioner, allowAutoTopicCreation: false })
  await producer.connect()
  const all = records()
  for (let i = 0; i < all.length; i += 1000) {
    await producer.send({ topic, acks: -1, messages: all.slice(i, i + 1000) })
  }
  await producer.disconnect()
}

main().catch(error => { console.error(error); process.exit(1) })
