// wechat-api against the gateway: setEndpoint takes no http://, the property does.
import { promisify } from 'node:util'
import API from 'wechat-api'
import { appid, host, menu, obey, secret, sha256 } from './steps.mjs'

const api = new API(appid, secret)
api.endpoint = host
const call = (name, ...args) => promisify(api[name]).call(api, ...args)

await obey({
  token: async () => (await call('getLatestToken')).accessToken,
  users: async () => (await call('getFollowers')).data.openid[0],
  menu: async () => (await call('createMenu', menu)).errmsg,
  upload: async (path) => (await call('uploadMedia', path, 'image')).media_id,
  download: async (id) => sha256(await call('getMedia', id)),
})
