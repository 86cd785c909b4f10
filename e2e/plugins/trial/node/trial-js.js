'use strict'

// The trial plugin in JavaScript: it does what its configuration says, as ../go/main.go.

const { existsSync } = require('fs')
const { appendFile } = require('fs/promises')
const { setTimeout: sleep } = require('timers/promises')

class Trial {
  constructor(config) {
    this.config = config
  }

  async access(kong) {
    const { trace, header, value, delay_ms, wait_for, hang, fail, exit, fault } = this.config
    if (fault === 'raise first') throw new Error('told to fail')
    if (trace) await kong.service.request.addHeader('X-Trace', trace)
    if (header) await kong.response.setHeader(header, value || '')
    if (delay_ms) await sleep(delay_ms)
    while (wait_for && !existsSync(wait_for)) await sleep(10)
    if (hang) await sleep(3600 * 1000)
    if (fault) await this.commit(fault, kong)
    if (fail) throw new Error('told to fail')
    if (exit) await kong.response.exit(exit, 'told to exit')
  }

  async commit(fault, kong) {
    switch (fault) {
      case 'exit process':
        return process.exit(3)
      case 'loop':
        for (;;) await kong.request.getMethod()
      case 'large header':
        return kong.response.setHeader('X-Large', 'a'.repeat(256 << 20))
      case 'large exit':
        return kong.response.exit(200, 'a'.repeat(256 << 20))
      case 'forget a promise':
        Promise.reject(new Error('told to fail'))
        return
      case 'throw in a timer':
        setTimeout(() => { throw new Error('told to fail') }, 5)
        return sleep(3600 * 1000)
      case 'catch':
        try {
          await kong.response.setStatus('none')
        } catch {}
        return appendFile(this.config.file, 'went on\n')
      case 'call after exit':
        await kong.response.exit(403, 'told to exit')
        await kong.request.getMethod()
        return appendFile(this.config.file, 'went on\n')
    }
  }

  async preread(kong) {
    const { delay_ms, hang, fail, target, exit } = this.config
    if (delay_ms) await sleep(delay_ms)
    if (hang) await sleep(3600 * 1000)
    if (fail) throw new Error('told to fail')
    if (target) {
      const [host, port] = target.split(':')
      await kong.service.setTarget(host, Number(port))
    }
    if (exit) await kong.response.exit(exit, 'told to exit')
  }

  async log(kong) {
    if (!this.config.log_file) return
    if ((await kong.nginx.getSubsystem()) === 'stream') {
      await appendFile(this.config.log_file, `${await kong.log.serialize()}\n`)
      return
    }
    const status = await kong.response.getStatus()
    const path = await kong.request.getPath()
    await appendFile(this.config.log_file, `${status} ${path}\n`)
  }
}

module.exports = {
  Plugin: Trial,
  Version: '1.0.0',
  Priority: Number(process.env.TRIAL_PRIORITY || 0),
  Schema: [
    { trace: { type: 'string' } },
    { header: { type: 'string' } },
    { value: { type: 'string' } },
    { delay_ms: { type: 'integer' } },
    { wait_for: { type: 'string' } },
    { hang: { type: 'boolean' } },
    { fail: { type: 'boolean' } },
    { exit: { type: 'integer' } },
    { fault: { type: 'string' } },
    { file: { type: 'string' } },
    { log_file: { type: 'string' } },
    { target: { type: 'string' } },
  ],
}
