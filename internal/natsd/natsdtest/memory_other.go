//go:build !linux

package natsdtest

// memoryDir is empty: there is no such file system.
const memoryDir = ""

func hasRoom(string) bool { return false }
