//go:build !linux

package natsdtest

// memoryDir is nowhere.
const memoryDir = ""

func roomy(string) bool { return false }
