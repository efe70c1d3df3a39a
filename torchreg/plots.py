"""Pictures of what a penalty does; the only file that imports matplotlib."""
