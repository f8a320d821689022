-- Each greeting compares the node's VMID range with those of its cluster; without this it reads every node.
CREATE INDEX nodes_cluster ON nodes (cluster);
