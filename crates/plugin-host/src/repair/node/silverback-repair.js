'use strict'

// What Silverback repairs in kong-pdk for Node, while it runs; its files stay as they are. NODE_OPTIONS names this file
// for the plugin servers that Silverback starts, and every Node program that inherits it loads it: it does nothing
// until kong-pdk's server.js and listener.js are loaded.
//
// - A handler that throws, or whose promise is rejected, is a failed event: the answer to the gateway is an error. So is
//   one that leaves a rejected promise or a throwing timer behind; that ends no process any more.
// - An event that the gateway gave up (StepError, or the end of its connection) is released: the PDK call that waits
//   never settles, nor does any later one. The same goes for calls after kong.response.exit. No entry stays behind.
// - Several requests in one chunk, and requests in many chunks, are understood; large ones take linear time.
// - An error of a socket ends that connection only. What cannot be sent is an error of the call that sent it.

const asyncHooks = require('async_hooks')
const fs = require('fs')
const Module = require('module')
const net = require('net')
const path = require('path')

const TERMINAL = new Set(['kong.response.exit', 'kong.response.error'])

const load = Module.prototype.load
Module.prototype.load = function (filename) {
  const result = load.apply(this, arguments)
  if (typeof filename === 'string' && /[\\/](server|listener)\.js$/.test(filename) && isKongPdk(filename)) {
    try {
      if (filename.endsWith('server.js')) repairServer(this)
      else repairListener(this)
    } catch (error) {
      console.error(`WARN repair: kong-pdk ${version(filename)} runs as it is: ${error.message}`)
    }
  }
  return result
}

function manifest (filename) {
  return JSON.parse(fs.readFileSync(path.join(path.dirname(filename), 'package.json'), 'utf8'))
}

function isKongPdk (filename) {
  try {
    return manifest(filename).name === 'kong-pdk'
  } catch {
    return false
  }
}

function version (filename) {
  return manifest(filename).version
}

function need (holds, what) {
  if (!holds) throw new Error(`this release has another shape (${what})`)
}

// The servers that are repaired; the listener is only if its server is.
const repaired = new WeakSet()
// Of the event whose handler runs, also in what the handler leaves behind.
let running

/** An event: between the handler, which puts calls and gets results, and the gateway, which asks for one after another. */
class Event {
  constructor (id) {
    this.id = id
    this.calls = [] // made, and not asked for yet
    this.results = [] // of promises that wait for a result, in the order of the calls
    this.asking = null // the gateway waits for the next call
    this.over = false // nothing that the handler does counts any more
  }

  /** The pipe that kong-pdk's PDK is given. */
  pipe (encode) {
    return {
      put: (call) => {
        if (this.over) return
        // an error here rejects the call: the plugin sees it where it made the call
        const data = encode(call)
        const terminal = TERMINAL.has(call.Method)
        this.awaited = !terminal
        this.offer({ data, terminal })
      },
      get: () => {
        if (this.over) return new Promise(() => {})
        // kong-pdk 0.5.0 waits for the answer to a terminal call, too, to which there is none
        if (!this.awaited) return Promise.resolve([undefined, undefined])
        return new Promise((resolve) => this.results.push(resolve))
      }
    }
  }

  offer (what) {
    if (this.over) return
    if (this.asking) {
      const asking = this.asking
      this.asking = null
      asking(what)
    } else {
      this.calls.push(what)
    }
  }

  next () {
    if (this.calls.length) return Promise.resolve(this.calls.shift())
    return new Promise((resolve) => { this.asking = resolve })
  }

  step (result) {
    const resolve = this.results.shift()
    if (resolve) resolve([result, undefined])
  }

  fail (error) {
    this.offer({ error })
  }

  /** Its handler is left alone: what it waits for never comes. */
  release () {
    if (this.asking) this.asking({ end: true })
    this.over = true
    this.asking = null
    this.calls = this.results = []
  }
}

/** An answer to HandleEvent or Step whose data is encoded already. */
class Reply {
  constructor (event, data) {
    this.event = event
    this.data = data
  }
}

function repairServer (module) {
  const Server = module.exports
  const { Encoder } = module.require('@msgpack/msgpack')
  const PDK = module.require('./pdk')
  const source = (name) => Function.prototype.toString.call((Server.prototype || {})[name] || '')
  for (const word of ['this.instances', 'this.eventID', 'this.events', 'executePhase', 'resetExpireTs']) {
    need(source('HandleEvent').includes(word), `HandleEvent without ${word}`)
  }
  need(source('step').includes('this.events'), 'step')
  need(source('Step').includes('this.step') && source('StepError').includes('this.step'), 'Step')
  need(/rpcCall|\.put\(/.test(PDK.toString()), 'pdk')

  need(asyncHooks.AsyncLocalStorage, 'AsyncLocalStorage: Node 12.17 has it')

  running = new asyncHooks.AsyncLocalStorage()
  const encoder = new Encoder()
  const encode = (value) => Buffer.from(encoder.encode(value))
  const RET = encode('ret')

  async function goOn (server, event) {
    const what = await event.next()
    if (what.data) {
      if (what.terminal) {
        server.events.delete(event.id)
        event.release()
      }
      return new Reply(event, what.data)
    }
    server.events.delete(event.id)
    event.release()
    if (what.end) return new Reply(event, RET)
    throw new Error(describe(what.error))
  }

  Server.prototype.HandleEvent = async function ({ InstanceId, EventName }) {
    const instance = this.instances.get(InstanceId)
    // the gateway knows these words
    if (!instance) throw new Server.Error(`no plugin instance #${InstanceId}`)
    instance.resetExpireTs()
    const event = new Event(this.eventID++)
    this.events.set(event.id, event)
    running.run(event, () => setImmediate(async () => {
      try {
        await instance.executePhase(EventName, new PDK(event.pipe(encode)).kong)
        // a promise that is rejected already and that nobody awaits is heard of first
        setImmediate(() => event.offer({ end: true }))
      } catch (error) {
        this.logger.error(`unhandled exception in ${instance.name}.${EventName} on instance #${InstanceId}: ${text(error)}`)
        event.fail(error)
      }
    }))
    return goOn(this, event)
  }

  Server.prototype.step = async function ({ EventId, Data }, isError) {
    const event = this.events.get(EventId)
    if (!event) throw new Server.Error(`event id ${EventId} not found`)
    if (isError) {
      this.events.delete(EventId)
      event.release()
      return new Reply(event, RET)
    }
    event.step(Data)
    return goOn(this, event)
  }

  repaired.add(Server)
}

function describe (error) {
  const name = error instanceof Error ? error.name : typeof error
  return `its handler threw ${name}: ${error instanceof Error ? error.message : String(error)}`
}

function text (error) {
  return (error && error.stack) || String(error)
}

function repairListener (module) {
  const Listener = module.exports
  const { Decoder, Encoder } = module.require('@msgpack/msgpack')
  const serve = Function.prototype.toString.call((Listener.prototype || {}).serve || '')
  for (const word of ['createServer', 'this.prefix', 'this.ps', 'unlinkSync', 'return server']) {
    need(serve.includes(word), `serve without ${word}`)
  }
  const original = Listener.prototype.serve

  const encoder = new Encoder()
  const encode = (value) => Buffer.from(encoder.encode(value))
  const decoder = new Decoder()
  const DATA = encode('Data')
  const EVENT_ID = encode('EventId')

  const answer = (id, result) => {
    if (!(result instanceof Reply)) return encode([1, id, undefined, result])
    // [1, id, nil, {Data, EventId}]
    return Buffer.concat([
      Buffer.from([0x94, 1]), encode(id), Buffer.from([0xc0, 0x82]), DATA, result.data, EVENT_ID, encode(result.event.id)
    ])
  }

  Listener.prototype.serve = function () {
    if (!repaired.has(this.ps.constructor)) return original.call(this)
    const { ps, logger } = this
    try {
      fs.unlinkSync(this.prefix)
    } catch (error) {
      if (error.code !== 'ENOENT') throw error
    }
    const server = net.createServer((client) => {
      const splitter = new Splitter()
      const waiting = new Set() // events whose handler waits for a step from this connection
      const send = (bytes) => { if (!client.destroyed) client.write(bytes) }
      client.on('error', (error) => logger.info(`rpc: a connection ended: ${error.message}`))
      client.on('close', () => {
        for (const event of waiting) {
          ps.events.delete(event.id)
          event.release()
        }
      })
      client.on('data', (chunk) => {
        let messages
        try {
          messages = splitter.push(chunk).map((message) => decoder.decode(message))
        } catch (error) {
          logger.error(`rpc: what came is no MessagePack: ${error.message}`)
          client.destroy()
          return
        }
        for (const message of messages) take(message)
      })

      async function take (message) {
        const [, id, method, args] = Array.isArray(message) ? message : []
        try {
          const [namespace, command] = String(method).split('.')
          if (namespace !== 'plugin') throw new Error(`RPC for ${namespace} is not supported`)
          if (!/^[A-Z]\w*$/.test(command) || typeof ps[command] !== 'function') {
            throw new Error(`method ${command} not implemented`)
          }
          const result = await ps[command](...args)
          const event = result instanceof Reply ? result.event : undefined
          if (event) waiting[ps.events.has(event.id) ? 'add' : 'delete'](event)
          if (event && client.destroyed && ps.events.delete(event.id)) return event.release()
          send(answer(id, result))
        } catch (error) {
          for (const event of waiting) if (!ps.events.has(event.id)) waiting.delete(event)
          logger.error(`rpc: #${id} ${error.message || error}`)
          send(encode([1, id, String(error.message || error), undefined]))
        }
      }
    })
    server.listen(this.prefix)
    server.once('listening', catchWhatIsLeft)
    logger.info('server started at', this.prefix)

    // What a handler leaves behind (a promise that nobody awaits, a timer) fails its event, if that still runs, and
    // nobody else's.
    function catchWhatIsLeft () {
      const caught = (kind) => (error) => {
        const event = running.getStore()
        logger.error(`${kind}: ${text(error)}`)
        if (event) event.fail(error)
      }
      process.on('unhandledRejection', caught('unhandled rejection'))
      process.on('uncaughtException', caught('uncaught exception'))
    }
    console.error(`INFO repair: kong-pdk ${version(module.filename)} is repaired`)
    return server
  }
}

/** Finds where one MessagePack message ends and the next begins, in time linear in the bytes. */
class Splitter {
  constructor () {
    this.parts = [] // of the message that is coming
    this.head = [] // the bytes of a head that is not whole
    this.skip = 0 // bytes of a string that are still to come
    this.values = 1 // that are still to come until the message is whole
  }

  push (chunk) {
    const messages = []
    let begin = 0
    let at = 0
    while (at < chunk.length) {
      if (this.skip > 0) {
        const step = Math.min(this.skip, chunk.length - at)
        this.skip -= step
        at += step
      } else {
        this.head.push(chunk[at++])
        if (this.head.length < headLength(this.head[0])) continue
        this.values -= 1
        this.take(Buffer.from(this.head))
        this.head.length = 0
      }
      if (this.values === 0 && this.skip === 0 && this.head.length === 0) {
        this.parts.push(chunk.subarray(begin, at))
        messages.push(this.parts.length === 1 ? this.parts[0] : Buffer.concat(this.parts))
        this.parts = []
        this.values = 1
        begin = at
      }
    }
    if (begin < chunk.length) this.parts.push(chunk.subarray(begin))
    return messages
  }

  /** A whole head: what follows it. */
  take (head) {
    const first = head[0]
    if (first >= 0xe0 || first < 0x80) return
    if (first < 0x90) this.values += 2 * (first & 0x0f)
    else if (first < 0xa0) this.values += first & 0x0f
    else if (first < 0xc0) this.skip = first & 0x1f
    else {
      switch (first) {
        case 0xc1: throw new Error('a byte that is never used')
        case 0xc4: case 0xd9: this.skip = head[1]; break
        case 0xc5: case 0xda: this.skip = head.readUInt16BE(1); break
        case 0xc6: case 0xdb: this.skip = head.readUInt32BE(1); break
        case 0xc7: this.skip = head[1] + 1; break
        case 0xc8: this.skip = head.readUInt16BE(1) + 1; break
        case 0xc9: this.skip = head.readUInt32BE(1) + 1; break
        case 0xca: case 0xce: case 0xd2: this.skip = 4; break
        case 0xcb: case 0xcf: case 0xd3: this.skip = 8; break
        case 0xcc: case 0xd0: this.skip = 1; break
        case 0xcd: case 0xd1: this.skip = 2; break
        case 0xd4: this.skip = 2; break
        case 0xd5: this.skip = 3; break
        case 0xd6: this.skip = 5; break
        case 0xd7: this.skip = 9; break
        case 0xd8: this.skip = 17; break
        case 0xdc: this.values += head.readUInt16BE(1); break
        case 0xdd: this.values += head.readUInt32BE(1); break
        case 0xde: this.values += 2 * head.readUInt16BE(1); break
        case 0xdf: this.values += 2 * head.readUInt32BE(1); break
      }
    }
  }
}

/** Bytes of the head: the first, and the length that follows it. */
function headLength (first) {
  switch (first) {
    case 0xc4: case 0xc7: case 0xd9: return 2
    case 0xc5: case 0xc8: case 0xda: case 0xdc: case 0xde: return 3
    case 0xc6: case 0xc9: case 0xdb: case 0xdd: case 0xdf: return 5
    default: return 1
  }
}
