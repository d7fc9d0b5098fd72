// co-wechat-api against the gateway: its addresses are properties.
import API from 'co-wechat-api'
import { appid, host, menu, obey, secret, sha256 } from './steps.mjs'

const api = new API(appid, secret)
api.prefix = `${host}/cgi-bin/`

await obey({
  token: async () => (await api.ensureAccessToken()).accessToken,
  users: async () => (await api.getFollowers()).data.openid[0],
  menu: async () => (await api.createMenu(menu)).errmsg,
  upload: async (path) => (await api.uploadMedia(path, 'image')).media_id,
  download: async (id) => sha256(await api.getMedia(id)),
})
