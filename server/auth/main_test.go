package auth_test

import (
	"testing"

	"github.com/nudgesync/nudge/internal/devpg/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
