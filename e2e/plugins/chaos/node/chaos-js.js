'use strict'

// The chaos plugin in JavaScript: it marks the request as checked, unless a request asks for a fault first, as ../go/main.go.

const { spawn } = require('child_process')
const net = require('net')
const { setTimeout: sleep } = require('timers/promises')

class Chaos {
  constructor(config) {
    this.first = config.first
    if (config.refuse) throw new Error('told to refuse')
  }

  async access(kong) {
    if (this.first) await commit(this.first, kong)
    await commit(await kong.request.getHeader('x-fault'), kong)
    await sleep(10) // so that some events are always under way
    await kong.service.request.setHeader('X-Checked', 'yes')
  }
}

async function commit(fault, kong) {
  switch (fault) {
    case 'raise':
      throw new Error('told to raise')
    case 'exit':
      return process.exit(3)
    case 'hang':
      return new Promise((resolve) => setTimeout(resolve, 3600 * 1000))
    case 'spin':
      for (;;);
    case 'flood':
      for (let i = 0; i < 50000; i++) process.stdout.write('flood '.repeat(170) + '\n')
      return
    case 'loop':
      for (;;) await kong.request.getMethod()
    case 'big':
      return kong.response.setHeader('X-Big', 'a'.repeat(256 << 20))
    case 'children':
      return grandchildren()
    case 'garbage':
      return send(Buffer.alloc(64, 0xc1), false)
    case 'truncated':
      return send(Buffer.from('940105c0db00001000616263', 'hex'), true)
    case 'oversized':
      return send(Buffer.concat([Buffer.from('940105c0c6ffffffff', 'hex'), Buffer.alloc(65536, 'x')]), false)
    case 'sequence':
      return send(Buffer.from('9401ce7fffffffc0c0', 'hex'), false)
    case 'closed':
      return send(Buffer.alloc(0), true)
  }
}

// Writes to every connection that the gateway has to this process, behind the back of the PDK.
function send(data, shutdown) {
  for (const handle of process._getActiveHandles()) {
    if (!(handle instanceof net.Socket) || !handle.server) continue
    handle.write(data)
    if (shutdown) handle.destroy()
  }
}

// Leaves two processes behind: one in the process's group, one in a session of its own.
function grandchildren() {
  const prefix = process.argv[process.argv.indexOf('--kong-prefix') + 1]
  for (const detached of [false, true]) {
    spawn('sh', ['-c', 'while :; do sleep 1; done', 'grandchild', prefix], { detached, stdio: 'ignore' })
  }
}

module.exports = {
  Plugin: Chaos,
  Version: '1.0.0',
  Priority: 0,
  Schema: [{ first: { type: 'string' } }, { refuse: { type: 'boolean' } }],
}
