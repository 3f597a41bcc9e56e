"""A facet of a third party's, for tests of the plugin: its rules take milliseconds, so that only the plugin is tested."""
