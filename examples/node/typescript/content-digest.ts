// Content digest: adds the checksum of the body to each answer (RFC 9530), so that clients can tell whether all of it arrived.
//
// It needs the whole body of the upstream's answer: a plugin with a `response` handler makes the gateway read it first.

import { createHash } from 'crypto'
import type kong from 'kong-pdk/kong'

type Algorithm = 'sha-256' | 'sha-512'

interface Config {
  algorithm: Algorithm
}

class ContentDigest {
  constructor(private readonly config: Config) {}

  // Runs when the upstream has answered, before the client gets the answer.
  async response(kong: kong): Promise<void> {
    const body = await kong.service.response.getRawBody()
    const hash = createHash(this.config.algorithm.replace('-', ''))
    const digest = hash.update(body ?? '').digest('base64')
    await kong.response.setHeader('Content-Digest', `${this.config.algorithm}=:${digest}:`)
  }
}

module.exports = {
  Plugin: ContentDigest,
  Name: 'content-digest',
  Version: '1.0.0',
  Priority: 600,
  Schema: [{ algorithm: { type: 'string', default: 'sha-256', one_of: ['sha-256', 'sha-512'] } }],
}
