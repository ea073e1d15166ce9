"""What a container is confined by besides namespaces and cgroups: seccomp, AppArmor, SELinux."""
