//go:build !race

package systemtest

// raceDetector tells that this binary is built with the race detector.
const raceDetector = false
