//go:build !plant

package main

import (
	"github.com/nudgesync/nudge/notify/bus"
	"github.com/nudgesync/nudge/notify/hub"
	"github.com/nudgesync/nudge/server/api"
)

// plantBus and plantHub are where the build tag "plant" puts bugs; without it they are what they get.
func plantBus(b bus.Bus) bus.Bus { return b }

func plantHub(h *hub.Hub) api.Hub { return h }
