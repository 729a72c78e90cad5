package attach

// provider is who runs the server, for hints in their words. Detecting is best effort: by the roles
// that they leave in every cluster (P26).
type provider string

const (
	onRDS      provider = "rds_superuser"
	onCloudSQL provider = "cloudsqlsuperuser"
	onAzure    provider = "azure_pg_admin"
	onNeon     provider = "neon_superuser"
	onSupabase provider = "supabase_admin"
)

func detect(roles []string) provider {
	for _, r := range roles {
		return provider(r)
	}
	return ""
}

// walLevelFix turns logical decoding on.
func (p provider) walLevelFix() string {
	switch p {
	case onRDS:
		return "in the instance's parameter group (Aurora: the cluster's) set rds.logical_replication = 1, then reboot the instance"
	case onCloudSQL:
		return "set the flag cloudsql.logical_decoding=on (gcloud sql instances patch INSTANCE --database-flags=cloudsql.logical_decoding=on), which restarts the instance"
	case onAzure:
		return "set the server parameter wal_level to logical, then restart the server"
	case onNeon:
		return "enable Logical Replication in the project's settings, which restarts its computes"
	}
	return settingFix("wal_level", "logical") + " -- then restart Postgres"
}

// directly says how to reach Postgres itself: poolers pass no replication connections.
func (p provider) directly() string {
	const do = "point source.dsn at Postgres itself, not at a pooler (PgBouncer often listens on port 6432)"
	switch p {
	case onNeon:
		return do + ": the host without -pooler"
	case onSupabase:
		return do + ": the direct connection, host db.PROJECT.supabase.co, port 5432"
	case onRDS:
		return do + ": the instance's endpoint, not RDS Proxy's"
	case onAzure:
		return do + ": port 5432, not 6432"
	}
	return do
}

// settingFix changes a server setting.
func settingFix(name, value string) string {
	return "alter system set " + name + " = " + literal(value) + ";"
}

// fix is settingFix in the provider's way: most take no ALTER SYSTEM.
func (p provider) fix(name, value, then string) string {
	switch p {
	case onRDS:
		return "in the instance's parameter group set " + name + " = " + value + " -- " + then
	case onCloudSQL:
		return "set the flag " + name + "=" + value + " (gcloud sql instances patch INSTANCE --database-flags=" + name + "=" + value + ") -- " + then
	case onAzure, onNeon, onSupabase:
		return "set the server parameter " + name + " to " + value + " -- " + then
	}
	return settingFix(name, value) + " -- " + then
}
