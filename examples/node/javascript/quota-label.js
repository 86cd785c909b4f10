'use strict'

// Quota label: tells clients which plan they are on and how many requests a minute it grants.
//
// The plan comes from a request header. A plan that the configuration does not know is refused.

class QuotaLabel {
  // One object for each entry in kong.yml; `config` is that entry's `config`, defaults filled in.
  constructor(config) {
    this.config = config
  }

  // Runs before the request goes to the upstream. Every function of the PDK returns a promise.
  async access(kong) {
    const plan = (await kong.request.getHeader('X-Plan')) || this.config.default_plan
    const limit = this.config.plans[plan]
    if (limit === undefined) {
      return kong.response.exit(403, { message: `there is no plan "${plan}"` })
    }
    await kong.response.setHeader('X-Quota', `${plan}; limit=${limit}; unit=minute`)
  }
}

module.exports = {
  Plugin: QuotaLabel,
  Name: 'quota-label',
  Version: '1.0.0',
  Priority: 700,
  Schema: [
    { default_plan: { type: 'string', default: 'free' } },
    {
      plans: {
        type: 'map',
        keys: { type: 'string' },
        values: { type: 'integer', gt: 0 },
        default: { free: 60, paid: 6000 },
      },
    },
  ],
}
