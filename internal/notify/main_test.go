package notify

import (
	"testing"

	"wxtoken/internal/natsd/natsdtest"
)

func TestMain(m *testing.M) { natsdtest.Main(m, 8) }
