// Package events names every subject, stream and consumer of wxtoken in one place,
// and publishes, schedules and consumes events.
package events
