'use strict'

// A plugin for the certificate phase, in JavaScript: it does what its configuration says.

class Handshake {
  constructor(config) {
    this.config = config
  }

  async certificate(kong) {
    const { ask, forbid_reuse, refuse } = this.config
    if (ask) await kong.client.tls.requestClientCertificate()
    if (forbid_reuse) await kong.client.tls.disableSessionReuse()
    if (refuse === 'exit') await kong.response.exit(403, 'no')
    if (refuse === 'error') await kong.response.error(500, 'no')
    if (refuse === 'call') await kong.request.getPath()
  }

  async access(kong) {
    const shown = {}
    for (const name of this.config.show || []) {
      if (name === 'chain') shown[name] = await kong.client.tls.getFullClientCertificateChain()
      else shown[name] = await kong.nginx.getVar(name)
    }
    if (Object.keys(shown).length > 0) {
      await kong.response.exit(200, shown, { 'Content-Type': 'application/json' })
    }
  }
}

module.exports = {
  Plugin: Handshake,
  Version: '1.0.0',
  Priority: 0,
  Schema: [
    { ask: { type: 'boolean' } },
    { forbid_reuse: { type: 'boolean' } },
    { refuse: { type: 'string' } },
    { show: { type: 'array', elements: { type: 'string' } } },
  ],
}
