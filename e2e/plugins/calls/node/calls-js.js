'use strict'

// The calls plugin in JavaScript: it makes the PDK calls that its configuration lists, as ../go/main.go.

const { createHash } = require('crypto')
const { existsSync } = require('fs')
const { appendFile } = require('fs/promises')
const { setTimeout: sleep } = require('timers/promises')

// Makes bytes readable: as text, in base64, or as a digest if there are many.
function shown(value) {
  if (value instanceof Uint8Array) {
    const bytes = Buffer.from(value)
    if (bytes.length > 65536) return { sha256: createHash('sha256').update(bytes).digest('hex'), length: bytes.length }
    const text = bytes.toString()
    return Buffer.from(text).equals(bytes) ? text : { base64: bytes.toString('base64') }
  }
  if (Array.isArray(value)) return value.map(shown)
  if (value && typeof value === 'object') {
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, shown(item)]))
  }
  return value === undefined ? null : value
}

async function waitFor(file) {
  while (!existsSync(file)) await sleep(10)
}

function call(kong, name, args) {
  if (name === 'sleep') return sleep(args[0])
  if (name === 'wait_for') return waitFor(args[0])
  // As plugins write it: kong.service.request.setPath
  const words = name.split('.').slice(1).map((word) => word.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase()))
  return words.reduce((space, word) => space[word], kong)(...args)
}

class Calls {
  constructor(config) {
    this.config = config
  }

  async run(kong, phase) {
    const calls = JSON.parse(this.config.calls)[phase]
    if (!calls) return
    const answers = []
    for (const [name, ...args] of calls) answers.push([name, shown(await call(kong, name, args)), null])
    await appendFile(this.config.file, JSON.stringify({ phase, answers }) + '\n')
  }

  async rewrite(kong) {
    await this.run(kong, 'rewrite')
  }

  async access(kong) {
    await this.run(kong, 'access')
  }

  async log(kong) {
    await this.run(kong, 'log')
  }
}

module.exports = {
  Plugin: Calls,
  Version: '1.0.0',
  Priority: 0,
  Schema: [{ calls: { type: 'string' } }, { file: { type: 'string' } }],
}
