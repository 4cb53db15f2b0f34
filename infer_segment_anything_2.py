"""The door that Ikomia opens: what it asks of this plugin, and where the answer is."""

from ikomia import dataprocess


class IkomiaPlugin(dataprocess.CPluginProcessInterface):
    """Hands Ikomia the factories; each module is imported only when its factory is asked for."""

    def __init__(self) -> None:
        dataprocess.CPluginProcessInterface.__init__(self)

    def get_process_factory(self) -> dataprocess.CTaskFactory:
        """The factory of the task."""
        from infer_segment_anything_2.infer_segment_anything_2_process import InferSegmentAnything2Factory

        return InferSegmentAnything2Factory()

    def get_widget_factory(self) -> dataprocess.CWidgetFactory:
        """The factory of the Studio panel; needs the PyQt that belongs to the installed ikomia."""
        from infer_segment_anything_2.infer_segment_anything_2_widget import InferSegmentAnything2WidgetFactory

        return InferSegmentAnything2WidgetFactory()

    def get_param_factory(self) -> dataprocess.CTaskParamFactory:
        """The factory of the parameters."""
        from infer_segment_anything_2.infer_segment_anything_2_process import InferSegmentAnything2ParamFactory

        return InferSegmentAnything2ParamFactory()
