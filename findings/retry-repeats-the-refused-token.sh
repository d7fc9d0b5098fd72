#!/usr/bin/env bash
# wechat-api repeats a call that was refused with 40001, and does so with the refused token.
#
# One would guess: a retry after 40001 asks for a new token first, as the SDK's successor co-wechat-api does.
# What comes out: the retry takes the token from its store again, where the refused one lies for the two hours that it was given. Once
# another process has asked WeChat for a token, each call is made twice and fails, and no new token is asked for.
#
# Exit: 0 when it comes out so, 1 when it does not, 2 when it could not be tried. Wants: node 20, npm.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm install --no-audit --no-fund --silent --prefix . wechat-api@1.35.1 co-wechat-api@3.11.0 >install.log 2>&1 || { cat install.log; echo "not tried: not installed"; exit 2; }
cat >finding.mjs <<'JS'
import { createServer } from 'node:http'
import { readFileSync } from 'node:fs'
import API from 'wechat-api'
import Successor from 'co-wechat-api'

let issued = 0
const calls = []
const server = createServer((req, res) => {
  const url = new URL(req.url, 'http://x')
  res.setHeader('Content-Type', 'application/json')
  if (url.pathname === '/cgi-bin/token') { // WeChat's: a new token ends the one before
    return res.end(JSON.stringify({ access_token: `token${++issued}`, expires_in: 7200 }))
  }
  const token = url.searchParams.get('access_token')
  calls.push(token)
  res.end(JSON.stringify(token === `token${issued}` ? { openid: 'o1' } : { errcode: 40001, errmsg: 'invalid credential' }))
}).listen(0, '127.0.0.1', async () => {
  const address = `http://127.0.0.1:${server.address().port}`
  const version = (name) => `${name} ${JSON.parse(readFileSync(`node_modules/${name}/package.json`)).version}`
  const old = new API('wx0000000000000001', 'secret')
  old.endpoint = address
  const successor = new Successor('wx0000000000000001', 'secret')
  successor.prefix = `${address}/cgi-bin/`
  const tried = []
  for (const [name, getUser] of [
    ['wechat-api', () => new Promise((resolve, reject) => old.getUser('o1', (err, user) => (err ? reject(err) : resolve(user))))],
    ['co-wechat-api', () => successor.getUser('o1')],
  ]) {
    calls.length = issued = 0
    await getUser()
    await fetch(`${address}/cgi-bin/token`) // another process
    const well = await getUser().then(() => true, () => false)
    tried.push(`${well} ${calls.join(' ')}`)
    console.log(`${version(name)}: after another process got a token, a call succeeds: ${well}; all calls were made with ${calls.join(', ')}`)
  }
  server.close()
  server.closeAllConnections()
  if (tried[0] !== 'false token1 token1 token1' || tried[1] !== 'true token1 token1 token3') {
    console.log('CHANGED: found before: false with token1 three times, and true, with token3 in the end')
    process.exit(1)
  }
  console.log('as found: the retry repeats the refused token')
  process.exit(0)
})
JS
timeout 60 node finding.mjs
