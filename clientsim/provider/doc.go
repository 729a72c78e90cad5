// Package provider simulates APNs, FCM and Web Push services, and the phones behind them.
package provider
