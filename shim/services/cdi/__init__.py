"""Devices by the Container Device Interface: files on the node say what a container with a device gets.

Source: the CDI specification (github.com/cncf-tags/container-device-interface, SPEC.md).
"""
