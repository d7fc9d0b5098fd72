#!/usr/bin/env bash
# co-wechat-api can't read JSON with a line break outside of its texts, not even after the last brace.
#
# One would guess: JSON is JSON, so what stands between a server and this SDK may write it on several lines, or end it with one.
# What comes out: the SDK escapes all control characters of an answer before it parses it, since WeChat leaves some in nicknames,
# and so makes \n, two characters, of the line break. Already the answer with the access token is an error then.
#
# Exit: 0 when it comes out so, 1 when it does not, 2 when it could not be tried. Wants: node 20, npm.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm install --no-audit --no-fund --silent --prefix . co-wechat-api@3.11.0 >install.log 2>&1 || { cat install.log; echo "not tried: not installed"; exit 2; }
cat >finding.mjs <<'JS'
import { createServer } from 'node:http'
import { readFileSync } from 'node:fs'
import API from 'co-wechat-api'

const answers = {
  plain: '{"nickname":"abc"}',
  inside: '{"nickname":"a\nbc"}', // not JSON: the SDK reads it, for which it escapes
  after: '{"nickname":"abc"}\n',
  between: '{\n  "nickname": "abc"\n}',
}
const server = createServer((req, res) => {
  const openid = new URL(req.url, 'http://x').searchParams.get('openid')
  res.setHeader('Content-Type', 'application/json')
  res.end(openid ? answers[openid] : '{"access_token":"t","expires_in":7200}')
}).listen(0, '127.0.0.1', async () => {
  const api = new API('wx0000000000000001', 'secret')
  api.prefix = `http://127.0.0.1:${server.address().port}/cgi-bin/`
  const out = {}
  for (const openid of Object.keys(answers)) {
    out[openid] = await api.getUser(openid).then((user) => JSON.stringify(user.nickname), () => 'an error')
  }
  server.close()
  console.log('co-wechat-api', JSON.parse(readFileSync('node_modules/co-wechat-api/package.json')).version, 'node', process.version)
  for (const [openid, text] of Object.entries(answers)) {
    console.log(`the answer ${JSON.stringify(text)} comes out as ${out[openid]}`)
  }
  if (out.plain !== '"abc"' || out.inside !== '"a\\nbc"' || out.after !== 'an error' || out.between !== 'an error') {
    console.log('CHANGED: the two last ones were errors before, the others not')
    process.exitCode = 1
    return
  }
  console.log('as found: a line break outside of a text is an error')
})
JS
timeout 60 node finding.mjs
