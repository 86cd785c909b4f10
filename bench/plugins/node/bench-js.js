'use strict'

// The plugin of the bench in JavaScript: it reads a request header as often as its configuration says, and tells so in a
// response header. Its siblings in ../go and ../python do the same.

class Bench {
  constructor(config) {
    this.calls = config.calls
  }

  async access(kong) {
    for (let i = 0; i < this.calls; i++) await kong.request.getHeader('user-agent')
    await kong.response.setHeader('x-bench', String(this.calls))
  }
}

module.exports = {
  Plugin: Bench,
  Name: 'bench-js',
  Version: '1.0.0',
  Priority: 0,
  Schema: [{ calls: { type: 'integer', default: 0 } }],
}
