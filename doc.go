// Package wxtoken reads the access tokens that wxtoken keeps for a WeChat
// third-party platform.
package wxtoken
