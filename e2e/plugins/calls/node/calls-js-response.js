'use strict'

// The same plugin with a response handler, which makes the gateway hold answers.

const calls = require('./calls-js')

class CallsWithResponse extends calls.Plugin {
  async response(kong) {
    await this.run(kong, 'response')
  }
}

module.exports = { ...calls, Plugin: CallsWithResponse }
